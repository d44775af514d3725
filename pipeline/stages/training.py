"""What the two stages that train have in common: how long, and how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from engines.cuda import compute_capability
from pipeline.artifact import Artifact, Splits
from pipeline.distillation.augment import Augment
from pipeline.distillation.optimizer import Optimizer
from pipeline.distillation.training import ClassWeights, Training
from pipeline.stage import Stage


class TrainingStage(Stage, ABC):
    """Its fields stand in the recipe sections of both."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    """Over all processes together."""
    optimizer: Optimizer = Optimizer()
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights, which is then what is judged and kept."""
    early_stopping: PositiveInt | None = None
    """Epochs without a better validation metric after which the training ends."""
    class_weights: ClassWeights | None = None
    """One for each class, or "balanced"."""
    mixed_precision: bool = True
    """Half precision where the device computes faster in it; on a CPU it changes nothing."""

    def surroundings(self) -> Mapping[str, Any]:
        # A GPU trains other bits than a CPU, in half precision.
        return {"gpu": compute_capability()}

    @abstractmethod
    def trained(self, made: Artifact) -> Mapping[str, Mapping[str, Any]]:
        """By phase of its events.jsonl the settings in which that training differs from the section."""

    def training(self, splits: Splits, views: int | None = None) -> Training:
        """What the trainer is told."""
        return Training(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            augment=Augment(**splits.json("augment.json")),
            views=views,
            ema=self.ema,
            early_stopping=self.early_stopping,
            class_weights=self.class_weights,
            mixed_precision=self.mixed_precision,
        )
