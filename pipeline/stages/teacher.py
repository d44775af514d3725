"""The network that knows: trained here, or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from pydantic import PositiveInt, field_validator

from pipeline import atomic
from pipeline.artifact import Artifact, Artifacts, Splits, Teacher
from pipeline.context import Context
from pipeline.data import Dataset, network_interface, open_dataset
from pipeline.distillation.augment import Augment
from pipeline.distillation.trainer import Optimizer, Schedule, fit, predictions, set_up_torch, write_events
from pipeline.errors import RecipeError
from pipeline.models import Model, make_model, model_files, parameter_count
from pipeline.stage import Stage
from pipeline.weights import SUFFIXES, load_weights, network_document, write_weights

if TYPE_CHECKING:
    from torch import nn


@final
class TrainTeacher(Stage):
    """`[teacher]`."""

    name: ClassVar[str] = "teacher"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits,)
    makes: ClassVar[type[Artifact]] = Teacher
    tools: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "numpy")

    model: Model
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    optimizer: Optimizer = Optimizer()
    weights: str | None = None
    """A .safetensors or .pt file: loaded instead of training."""

    @field_validator("weights")
    @classmethod
    def _known_suffix(cls, value: str | None) -> str | None:
        if value is not None and not value.endswith(SUFFIXES):
            raise ValueError(f"'{value}' must end in {', '.join(SUFFIXES)}")
        return value

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:
        files = model_files(self.model, recipe_folder)
        if self.weights is not None:
            path = recipe_folder / self.weights
            if not path.is_file():
                raise RecipeError(
                    f"weights '{self.weights}': there is no file {path}; paths are relative to the recipe"
                )
            files[self.weights] = path
        return files

    def rehearse(self, made: Artifacts, context: Context) -> None:
        shape, outputs = network_interface(made[Splits], context)
        network = make_model(self.model, shape, outputs, context.recipe_folder)
        if self.weights is not None:
            load_weights(network, context.recipe_folder / self.weights)

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        set_up_torch(context)
        dataset = open_dataset(inputs[Splits], context.recipe_folder)
        outputs = context.task.output_size(len(dataset.classes))
        network = make_model(self.model, dataset.shape, outputs, context.recipe_folder)
        events = self._learn(network, dataset, inputs[Splits], context)
        write_weights(target / "teacher.safetensors", network.state_dict())
        write_events(target / "events.jsonl", events)
        shares = {split: _share(network, dataset, split, context) for split in ("train", "validation")}
        context.say(
            f"teacher: {parameter_count(network):,} parameters, "
            + ", ".join(f"{split} {context.task.metric} {share:.2%}" for split, share in shares.items())
        )
        document = network_document(network, self.model, dataset.shape, outputs, context.recipe_folder)
        atomic.write_json(target / "model.json", document)
        atomic.write_json(target / "metrics.json", {"metric": context.task.metric, **shares})

    def _learn(self, network: nn.Module, dataset: Dataset, splits: Splits, context: Context) -> list[dict[str, object]]:
        if self.weights is not None:
            load_weights(network, context.recipe_folder / self.weights)
            context.say("teacher: its weights are loaded, so epochs, batch_size and optimizer are not used")
            return []
        schedule = Schedule(self.epochs, self.batch_size, self.optimizer, Augment(**splits.json("augment.json")))
        done = fit(
            network,
            dataset,
            lambda outputs, _, labels: context.task.supervised_loss(outputs, labels),
            schedule,
            context,
            "teacher",
        )
        network.load_state_dict(done.best)
        return list(done.events)


def _share(network: nn.Module, dataset: Dataset, split: str, context: Context) -> float:
    indices = dataset.indices("train" if split == "train" else "validation")
    return float(context.task.correct(predictions(network, dataset, indices), dataset.labels(indices)).mean())
