"""The student: trained on the teacher's outputs, beside the same network trained on labels alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny

from pipeline import atomic
from pipeline.artifact import Artifact, Artifacts, Splits, Student, Teacher
from pipeline.context import Context
from pipeline.data import Dataset, network_interface, open_dataset
from pipeline.distillation import LOSSES
from pipeline.distillation.augment import Augment
from pipeline.distillation.loss import DistillationLoss
from pipeline.distillation.trainer import BatchLoss, Fit, Optimizer, Schedule, fit, set_up_torch, write_events
from pipeline.mistakes import chosen
from pipeline.models import Model, make_model, model_files, parameter_count
from pipeline.stage import Stage
from pipeline.weights import load_network, network_document, write_weights

if TYPE_CHECKING:
    from torch import Tensor, nn


def _loss_by_name(value: Any) -> Any:
    return value if isinstance(value, DistillationLoss) else chosen("loss", value, LOSSES)


Loss = Annotated[SerializeAsAny[DistillationLoss], BeforeValidator(_loss_by_name)]


@final
class Distill(Stage):
    """`[distill]`."""

    name: ClassVar[str] = "distill"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Teacher)
    makes: ClassVar[type[Artifact]] = Student
    tools: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "numpy")

    model: Model
    epochs: PositiveInt = 12
    batch_size: PositiveInt = 64
    optimizer: Optimizer = Optimizer()
    losses: Annotated[tuple[Loss, ...], Field(min_length=1, max_length=1)]
    baseline: bool = True
    """Train the same student on labels alone too, for the report."""

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:
        return model_files(self.model, recipe_folder)

    def rehearse(self, made: Artifacts, context: Context) -> None:
        shape, outputs = network_interface(made[Splits], context)
        make_model(self.model, shape, outputs, context.recipe_folder)

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        set_up_torch(context)
        dataset = open_dataset(inputs[Splits], context.recipe_folder)
        teacher = load_network(inputs[Teacher], "teacher.safetensors", context)
        learned = self._fit(dataset, inputs[Splits], self._loss(teacher, context), context, "student")
        write_weights(target / "student.safetensors", learned.best)
        write_weights(target / "last.safetensors", learned.last)
        events, metrics = list(learned.events), {"student": _metrics(learned)}
        if self.baseline:
            alone = self._fit(dataset, inputs[Splits], _labels_only(context), context, "baseline")
            write_weights(target / "baseline.safetensors", alone.best)
            events, metrics = [*events, *alone.events], {**metrics, "baseline": _metrics(alone)}
        self._write(target, dataset, inputs[Teacher], context, metrics)
        write_events(target / "events.jsonl", events)

    def _fit(self, dataset: Dataset, splits: Splits, loss: BatchLoss, context: Context, title: str) -> Fit:
        # Student and baseline start from the same weights.
        set_up_torch(context)
        network = self._network(dataset, context)
        schedule = Schedule(self.epochs, self.batch_size, self.optimizer, Augment(**splits.json("augment.json")))
        return fit(network, dataset, loss, schedule, context, title)

    def _network(self, dataset: Dataset, context: Context) -> nn.Module:
        outputs = context.task.output_size(len(dataset.classes))
        return make_model(self.model, dataset.shape, outputs, context.recipe_folder)

    def _loss(self, teacher: nn.Module, context: Context) -> BatchLoss:
        import torch

        (term,) = self.losses

        def loss(outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            with torch.inference_mode():
                target = teacher(images)
            # A clone may enter the graph; an inference tensor may not.
            return term(outputs, target.clone(), labels, context.task)

        return loss

    def _write(
        self, target: Path, dataset: Dataset, teacher: Teacher, context: Context, metrics: dict[str, Any]
    ) -> None:
        network, outputs = self._network(dataset, context), context.task.output_size(len(dataset.classes))
        parameters = parameter_count(network)
        teachers = int(teacher.json("model.json")["parameters"])
        context.say(f"student: {parameters:,} parameters, {teachers / parameters:.1f} times fewer than the teacher")
        document = {
            **network_document(network, self.model, dataset.shape, outputs, context.recipe_folder),
            "teacher_parameters": teachers,
            "losses": [{**term.model_dump(mode="json"), "formula": term.formula} for term in self.losses],
        }
        atomic.write_json(target / "model.json", document)
        atomic.write_json(target / "metrics.json", {"metric": context.task.metric, **metrics})


def _labels_only(context: Context) -> BatchLoss:
    return lambda outputs, _, labels: context.task.supervised_loss(outputs, labels)


def _metrics(fit: Fit) -> dict[str, Any]:
    best = fit.events[fit.best_epoch - 1]
    return {
        "epochs": len(fit.events),
        "best_epoch": fit.best_epoch,
        "validation": best["validation"],
        "last": fit.events[-1]["validation"],
    }
