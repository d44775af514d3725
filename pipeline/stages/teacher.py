"""The networks that know: trained here, or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

from pydantic import AfterValidator, BaseModel, ConfigDict

from pipeline.artifact import Artifact, Artifacts, Splits, Teacher, teacher_files
from pipeline.context import Context
from pipeline.data.dataset import Dataset, open_dataset, read_interface
from pipeline.distillation.epochs import write_events
from pipeline.distillation.losses.labels import Labels
from pipeline.distillation.signals import NoTeacher
from pipeline.distillation.trainer import fit
from pipeline.distillation.training import Lesson
from pipeline.errors import RecipeError
from pipeline.files import atomic
from pipeline.measuring.predictions import predictions
from pipeline.measuring.teacher_checks import teacher_score
from pipeline.models.model import Model, make_model, model_files, model_tools, parameter_count
from pipeline.models.weights import SUFFIXES, load_weights, network_document, write_weights
from pipeline.process.torch_state import set_up_torch
from pipeline.stages.training import TrainingStage

if TYPE_CHECKING:
    from torch import nn


def _checked_suffix(value: str) -> str:
    if not value.endswith(SUFFIXES):
        raise ValueError(f"'{value}' must end in {', '.join(SUFFIXES)}")
    return value


WeightsFile = Annotated[str, AfterValidator(_checked_suffix)]
"""A .safetensors or .pt file, relative to the recipe."""


class AnotherTeacher(BaseModel):
    """`[[teacher.more]]`: trained like the first, from another seed, where it has no weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Model
    weights: WeightsFile | None = None


def teacher_title(index: int) -> str:
    """What messages call a teacher."""
    return "teacher" if index == 0 else f"teacher-{index + 1}"


@final
class TrainTeacher(TrainingStage):
    """`[teacher]`."""

    name: ClassVar[str] = "teacher"
    version: ClassVar[int] = 3
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits,)
    makes: ClassVar[type[Artifact]] = Teacher
    tools: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "numpy", "torchmetrics")
    collective: ClassVar[bool] = True

    model: Model
    weights: WeightsFile | None = None
    """Loaded instead of training."""
    more: tuple[AnotherTeacher, ...] = ()
    """Further teachers, whose answers `[distill] combine` puts together."""

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:
        files: dict[str, Path] = {}
        for each in self.teachers():
            files |= model_files(each.model, recipe_folder)
            if each.weights is not None:
                path = recipe_folder / each.weights
                if not path.is_file():
                    raise RecipeError(
                        f"weights '{each.weights}': there is no file {path}; paths are relative to the recipe"
                    )
                files[each.weights] = path
        return files

    def more_tools(self) -> tuple[str, ...]:
        return tuple(tool for each in self.teachers() for tool in model_tools(each.model))

    def rehearse(self, made: Artifacts, context: Context) -> None:
        interface = read_interface(made[Splits], context)
        for each in self.teachers():
            network = make_model(each.model, interface, context.recipe_folder)
            if each.weights is not None:
                load_weights(network, context.recipe_folder / each.weights)

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        dataset = open_dataset(inputs[Splits], context)
        events: list[Mapping[str, Any]] = []
        metrics: dict[str, Any] = {"metric": context.task.metric}
        for index, each in enumerate(self.teachers()):
            set_up_torch(context, index)
            title, files = teacher_title(index), teacher_files(index)
            network = make_model(each.model, dataset.interface, context.recipe_folder)
            events += self._learn(network, each, dataset, inputs[Splits], context, title)
            write_weights(target / files.weights, network.state_dict())
            found = _scores(network, dataset, context, title, trained_here=each.weights is None)
            metrics |= found if index == 0 else {title: found}
            document = network_document(network, each.model, dataset.interface, context.recipe_folder)
            atomic.write_json(target / files.model, document)
        write_events(target / "events.jsonl", events)
        atomic.write_json(target / "metrics.json", metrics)

    def trained(self, made: Artifact) -> Mapping[str, Mapping[str, Any]]:
        del made
        return {
            teacher_title(index): {"model": each.model.model_dump(mode="json")}
            for index, each in enumerate(self.teachers())
            if each.weights is None
        }

    def teachers(self) -> tuple[AnotherTeacher, ...]:
        """The first, and those beside it."""
        return (AnotherTeacher(model=self.model, weights=self.weights), *self.more)

    def _learn(
        self, network: nn.Module, each: AnotherTeacher, dataset: Dataset, splits: Splits, context: Context, title: str
    ) -> list[Mapping[str, Any]]:
        if each.weights is not None:
            load_weights(network, context.recipe_folder / each.weights)
            context.say(f"{title}: its weights are loaded, so epochs, batch_size and optimizer are not used")
            return []
        lesson = Lesson((Labels(),), NoTeacher())
        context = replace(context, tracking=context.tracking.but(model=each.model.model_dump(mode="json")))
        done = fit(network, dataset, lesson, self.training(splits), context, title)
        network.load_state_dict(done.best)
        return list(done.events)


def _scores(network: nn.Module, dataset: Dataset, context: Context, title: str, trained_here: bool) -> dict[str, float]:
    """Its metric on training and validation samples; raises DataRejected where it is not surely above chance."""
    train, validation = dataset.indices("train"), dataset.indices("validation")
    found = teacher_score(network, dataset, train, context, title, trained_here)
    found.require()
    scores = {
        "train": found.found.value,
        "validation": context.task.score(predictions(network, dataset, validation), dataset.labels(validation)),
    }
    context.say(
        f"{title}: {parameter_count(network):,} parameters, "
        + ", ".join(f"{split} {context.task.metric} {score:.2%}" for split, score in scores.items())
    )
    return {**scores, "chance": found.chance}
