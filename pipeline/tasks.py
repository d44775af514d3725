"""What a task is: its supervised loss, its metric, how teacher and student outputs pair up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class Task(ABC):
    """Stateless. Outputs and labels are batch first."""

    name: ClassVar[str]
    metric: ClassVar[str]
    """A share between 0 and 1, higher is better."""
    outputs: ClassVar[tuple[str, ...]]
    """Names that the exported graph gives its outputs."""

    @abstractmethod
    def supervised_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Scalar, averaged over the batch."""

    @abstractmethod
    def correct(self, outputs: NDArray[np.generic], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each sample whether the metric counts it; shape (batch,)."""

    @abstractmethod
    def output_size(self, classes: int) -> int:
        """Length of a model's output for this many classes."""


class Classification(Task):
    """One label of several; logits of shape (batch, classes)."""

    name = "classification"
    metric = "accuracy"
    outputs = ("logits",)

    def supervised_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, labels)

    def correct(self, outputs: NDArray[np.generic], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        # NaN logits must never count: argmax would take the first NaN for the maximum.
        whole = np.isfinite(outputs.astype(np.float64)).all(axis=1)
        right: NDArray[np.bool_] = np.logical_and(whole, np.equal(outputs.argmax(axis=1), labels))
        return right

    def output_size(self, classes: int) -> int:
        return classes


TASKS: dict[str, Task] = {task.name: task for task in (Classification(),)}
