"""What a training is told: how long, how, on which views; and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pipeline.distillation.augment import Augment
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.optimizer import Optimizer
from pipeline.distillation.signals import TeacherSignals

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]

ClassWeights = Literal["balanced"] | Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
"""For each class how much its decisions count; balanced: the inverse of how often it occurs, 1 on average."""


@dataclass(frozen=True)
class Training:
    """How long and how."""

    epochs: int
    batch_size: int
    optimizer: Optimizer
    augment: Augment
    views: int | None = None
    """How many augmented views the epochs share; None: each has its own."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is then what is judged and kept."""
    early_stopping: int | None = None
    """Epochs without a better validation metric after which it ends."""
    class_weights: ClassWeights | None = None
    mixed_precision: bool = True
    """Half precision in the network where the device computes faster in it: on GPUs."""

    def extras(self) -> tuple[str, ...]:
        """What is out of the ordinary, for the report."""
        said = {
            f"moving average of the weights, decay {self.ema:g}" if self.ema is not None else "": self.ema,
            f"gradients clipped at norm {self.optimizer.clip_norm}": self.optimizer.clip_norm,
            f"early stopping after {self.early_stopping} epochs without gain": self.early_stopping,
            "class weights": self.class_weights,
            f"{self.views} views shared by the epochs": self.views,
        }
        return tuple(words for words, given in said.items() if given is not None)


@dataclass(frozen=True)
class Lesson:
    """What is taught: the terms, and where the teacher's side of them comes from."""

    terms: tuple[DistillationLoss, ...]
    signals: TeacherSignals


@dataclass(frozen=True)
class Fit:
    """What a training left."""

    best: State
    last: State
    best_epoch: int
    """Counted from 1."""
    events: Sequence[Mapping[str, Any]]
    """One an epoch: phase, epoch, step, mean loss, mean of each term, learning rate, validation metric."""
    pruned: bool = False
    """Whether `on_epoch` ended it."""

    @property
    def validation(self) -> float:
        """The metric of the best epoch."""
        return float(self.events[self.best_epoch - 1]["validation"])

    def to_json(self) -> dict[str, Any]:
        """For metrics.json."""
        return {
            "epochs": len(self.events),
            "best_epoch": self.best_epoch,
            "validation": self.validation,
            "last": self.events[-1]["validation"],
        }


OnEpoch = Callable[[Sequence[float]], bool]
"""Called after each epoch with the validation metrics of all so far; returns False to end the training."""
