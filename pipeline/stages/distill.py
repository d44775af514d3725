"""The student: trained on what its teachers answer, beside the same network trained on labels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, final

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny, model_validator

from pipeline.artifact import TARGET, Artifact, Artifacts, Splits, Student, Teacher
from pipeline.context import Context
from pipeline.data.dataset import Dataset, open_dataset, read_interface
from pipeline.distillation.augment import Augment
from pipeline.distillation.epochs import write_events
from pipeline.distillation.losses import LOSSES
from pipeline.distillation.losses.labels import Labels
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.weights import schedule_in_words, term_names
from pipeline.distillation.optimizer import Optimizer
from pipeline.distillation.search import TargetSearch
from pipeline.distillation.signals import NoTeacher, TeacherSignals
from pipeline.distillation.target import Target, applied
from pipeline.distillation.teacher_cache import CacheSettings
from pipeline.distillation.teaching import Teaching
from pipeline.distillation.trainer import fit
from pipeline.distillation.training import Fit, Lesson, Training
from pipeline.errors import RecipeError
from pipeline.files import atomic
from pipeline.mistakes import chosen
from pipeline.models.model import Model, make_model, model_files, model_tools, parameter_count
from pipeline.models.weights import load_weights, network_document, write_weights
from pipeline.process.torch_state import set_up_torch
from pipeline.stages.teacher import WeightsFile
from pipeline.stages.training import TrainingStage

if TYPE_CHECKING:
    from torch import nn


def _loss_by_name(value: Any) -> Any:
    return value if isinstance(value, DistillationLoss) else chosen("loss", value, LOSSES)


Loss = Annotated[SerializeAsAny[DistillationLoss], BeforeValidator(_loss_by_name)]


@final
class Distill(TrainingStage):
    """`[distill]`."""

    name: ClassVar[str] = "distill"
    version: ClassVar[int] = 3
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Teacher)
    makes: ClassVar[type[Artifact]] = Student
    tools: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "numpy", "torchmetrics")
    collective: ClassVar[bool] = True

    model: Model
    losses: Annotated[tuple[Loss, ...], Field(min_length=1)]
    """Their weighted sum is what is minimized; nothing is added to it."""
    baseline: bool = True
    """Train the same student on labels alone too, for the report."""
    combine: Literal["average", "confidence"] = "average"
    """How the answers of several teachers become one."""
    views: PositiveInt | None = None
    """How many augmented views the epochs share; None: each epoch has its own."""
    cache: CacheSettings = CacheSettings()
    target: Target | None = None
    """What the student must reach; without it, it is trained once."""
    weights: WeightsFile | None = None
    """What the student starts from."""

    @model_validator(mode="after")
    def _reaches_the_outputs(self) -> Distill:
        if not any(term.trains_outputs for term in self.losses):
            raise ValueError(
                f"losses: {', '.join(term.name for term in self.losses)} do not reach the student's outputs, so its "
                'head would stay untrained; add a term that does, such as { name = "kd" } or { name = "labels" }'
            )
        return self

    @model_validator(mode="after")
    def _searches_what_is_there(self) -> Distill:
        if self.target is not None:
            self.target.check(self.losses)
        return self

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:
        files = dict(model_files(self.model, recipe_folder))
        if self.weights is not None:
            path = recipe_folder / self.weights
            if not path.is_file():
                raise RecipeError(
                    f"weights '{self.weights}': there is no file {path}; paths are relative to the recipe"
                )
            files[self.weights] = path
        return files

    def more_tools(self) -> tuple[str, ...]:
        return (*model_tools(self.model), *(("optuna",) if self.target is not None else ()))

    def rehearse(self, made: Artifacts, context: Context) -> None:
        interface = read_interface(made[Splits], context)
        network = make_model(self.model, interface, context.recipe_folder)
        if self.weights is not None:
            load_weights(network, context.recipe_folder / self.weights)
        for term in self.losses:
            if term.needs_logits and not context.task.has_logits:
                raise RecipeError(
                    f"[distill] loss '{term.name}' compares logits over classes, and the task {context.task.name} has "
                    "none; take mimic, or a loss on features beside labels"
                )
        _require_layers(network, {layer for term in self.losses for layer in term.student_layers()}, "student")

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        set_up_torch(context)
        dataset, training = open_dataset(inputs[Splits], context), self.training(inputs[Splits], self.views)
        with Teaching(self.losses, self.combine, self.cache, dataset, training, inputs, context) as teaching:
            signals = teaching.signals(1 if self.target is None else self.target.trials)
            learned, settings = self._taught(dataset, training, signals, inputs[Teacher], target, context)
        write_weights(target / "student.safetensors", learned.best)
        write_weights(target / "last.safetensors", learned.last)
        events = [{**event, "phase": "student"} for event in learned.events]
        metrics = {"metric": context.task.metric, "student": learned.to_json()}
        if self.baseline:
            # Augmented anew in each epoch, as without a teacher one would.
            alone = self._fit(
                dataset, Lesson((Labels(),), NoTeacher()), self.training(inputs[Splits]), context, "baseline"
            )
            write_weights(target / "baseline.safetensors", alone.best)
            events, metrics = [*events, *map(dict, alone.events)], {**metrics, "baseline": alone.to_json()}
        self._write(target, dataset, inputs[Teacher], context, settings)
        described = {"teachers": teaching.count, "combine": self.combine, "teacher_outputs": signals.in_words()}
        atomic.write_json(
            target / "metrics.json", {**metrics, **described, "extras": list(self._extras(training, context))}
        )
        write_events(target / "events.jsonl", events)

    def _taught(
        self,
        dataset: Dataset,
        training: Training,
        signals: TeacherSignals,
        teacher: Teacher,
        target: Path,
        context: Context,
    ) -> tuple[Fit, tuple[DistillationLoss, ...]]:
        """The student, and the terms that taught it."""
        if self.target is None:
            return self._fit(dataset, Lesson(self.losses, signals), training, context, "student"), self.losses
        reference = float(teacher.json("metrics.json")["validation"])
        search = TargetSearch(self.target, reference, self.losses, training, context)
        found = search.run(
            lambda terms, tried, title, on_epoch: self._fit(
                dataset, Lesson(terms, signals), tried, context, title, on_epoch
            )
        )
        atomic.write_json(target / TARGET, found.to_json())
        return found.student, found.terms

    def _fit(
        self, dataset: Dataset, lesson: Lesson, training: Training, context: Context, title: str, on_epoch: Any = None
    ) -> Fit:
        # Student, baseline and every trial start from the same weights.
        set_up_torch(context)
        network = make_model(self.model, dataset.interface, context.recipe_folder)
        if self.weights is not None:
            load_weights(network, context.recipe_folder / self.weights)
        tracking = context.tracking.but(**_tracked(lesson.terms, training.optimizer))
        return fit(network, dataset, lesson, training, replace(context, tracking=tracking), title, on_epoch)

    def trained(self, made: Artifact) -> Mapping[str, Mapping[str, Any]]:
        terms, optimizer = self.losses, self.optimizer
        if self.target is not None:
            found = made.json(TARGET)
            own = Training(self.epochs, self.batch_size, optimizer, Augment())
            terms, chosen = applied(terms, own, found["trials"][found["chosen"] - 1]["settings"])
            optimizer = chosen.optimizer
        baseline = {"baseline": _tracked((Labels(),), self.optimizer)} if self.baseline else {}
        return {"student": _tracked(terms, optimizer), **baseline}

    def _extras(self, training: Training, context: Context) -> tuple[str, ...]:
        processes = (f"{context.world.size} processes",) if context.world.size > 1 else ()
        return (*training.extras(), *processes)

    def _write(
        self,
        target: Path,
        dataset: Dataset,
        teacher: Teacher,
        context: Context,
        terms: tuple[DistillationLoss, ...],
    ) -> None:
        network = make_model(self.model, dataset.interface, context.recipe_folder)
        parameters, teachers = parameter_count(network), int(teacher.json("model.json")["parameters"])
        context.say(f"student: {parameters:,} parameters, {teachers / parameters:.1f} times fewer than the teacher")
        document = {
            **network_document(network, self.model, dataset.interface, context.recipe_folder),
            "teacher_parameters": teachers,
            "optimizer": self.optimizer.model_dump(mode="json"),
            "losses": [_described(name, term) for name, term in zip(term_names(terms), terms, strict=True)],
        }
        atomic.write_json(target / "model.json", document)


def _tracked(terms: Sequence[DistillationLoss], optimizer: Optimizer) -> dict[str, Any]:
    """In what the trainings of one section differ."""
    return {
        "losses": [term.model_dump(mode="json") for term in terms],
        "optimizer": optimizer.model_dump(mode="json", exclude_none=True),
    }


def _described(name: str, term: DistillationLoss) -> dict[str, Any]:
    settings = term.model_dump(mode="json", exclude={"name", "weight", "schedule"})
    return {
        "name": name,
        "formula": term.formula,
        "paper": term.paper,
        "weight": term.weight,
        "schedule": schedule_in_words(term),
        "settings": settings,
    }


def _require_layers(network: nn.Module, names: set[str], who: str) -> None:
    """Raises RecipeError, before anything trains, for a layer that the network does not have."""
    from pipeline.distillation.features import Features

    Features(network, sorted(names), who).close()
