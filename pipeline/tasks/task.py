"""The contract of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.models.interface import Interface, Shape

if TYPE_CHECKING:
    from torch import Tensor

Outputs = Mapping[str, "Tensor"]
"""By name, batch first."""
Arrays = Mapping[str, NDArray[Any]]
Statistics = NDArray[np.float64]
"""(samples, k): of each sample all that the metric needs, so any set of samples can be judged, and resampled."""
Counts = NDArray[np.int64]
"""(..., samples): how often each sample is counted."""


class Task(ABC):
    """What a task is: its labels, its supervised loss, its metric, how teacher and student outputs pair up.

    Stateless. Outputs and labels are batch first. A user's own task is a subclass, named `task = "tasks.py:MyTask"`:
    of `SummedTask` where its metric follows from sums over samples, else of this one.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    """Higher is better, 1 is perfect; shown in percent."""
    outputs: ClassVar[tuple[str, ...]]
    """Names that the exported graph gives its outputs, in the network's order."""
    has_logits: ClassVar[bool]
    """Whether outputs are logits over classes, which the logit losses compare."""
    dense: ClassVar[bool] = False
    """Whether a label is an image of the input's height and width, which follows the input's augmentation.

    Labels of any other kind stay as they are: where they say places (boxes), augment in the factory that makes them.
    """
    leaves_out: ClassVar[bool] = False
    """Whether some decisions of a sample may have no label, so that a loss divides by a count of its own."""
    counts_samples: ClassVar[bool] = False
    """Whether the metric is the share of samples that are right; its statistics are then (1 or 0, 1)."""

    @abstractmethod
    def checked_labels(
        self, labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        """Labels as the task stores them, and the names of its classes; raises DataRejected with what to mend."""

    def check_labels_fit(self, labels: NDArray[Any], inputs: Arrays, where: str) -> None:
        """Raises DataRejected where labels and raw inputs, samples first, say different things of a sample."""
        del labels, inputs, where

    def strata(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """For each sample the group of which every split gets its share."""
        return np.zeros(len(labels), np.int64)

    @abstractmethod
    def output_shapes(self, inputs: Mapping[str, Shape], classes: int) -> Mapping[str, Shape | None]:
        """Shape of one sample's output by name; None where it is the network's own affair."""

    @abstractmethod
    def supervised_loss(self, outputs: Outputs, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Scalar, averaged over the batch; `weights` are of the classes, (classes,)."""

    @abstractmethod
    def statistics(self, outputs: Arrays, labels: NDArray[Any]) -> Statistics:
        """Of each sample; an output that is not finite counts as wrong."""

    @abstractmethod
    def metric_over(self, statistics: Statistics, counts: Counts) -> NDArray[np.float64]:
        """The metric of the samples, each as often as it is counted: (samples, k) and (..., samples) -> (...).

        All counts are 1 for the metric itself; its interval counts as often as each sample was drawn.
        """

    @abstractmethod
    def chance(self, labels: NDArray[Any], classes: int) -> float:
        """The metric of the best answer that does not look at the input."""

    def same_decisions(self, found: Arrays, wanted: Arrays) -> NDArray[np.bool_]:
        """(decisions,): whether each decision that follows from outputs is that of the others; empty without any.

        What is not finite decides nothing, so it is the same as nothing. A task whose decisions are no classes writes
        its own.
        """
        if not self.has_logits:
            return np.zeros(0, np.bool_)
        rows, others = (self._rows_of(outputs) for outputs in (found, wanted))
        whole = np.isfinite(rows).all(axis=1) & np.isfinite(others).all(axis=1)
        same: NDArray[np.bool_] = whole & (rows.argmax(axis=1) == others.argmax(axis=1))
        return same

    def _rows_of(self, outputs: Arrays) -> NDArray[np.float32]:
        from torch import from_numpy

        rows = self.logit_rows({name: from_numpy(np.ascontiguousarray(outputs[name])) for name in self.outputs})
        return rows.float().numpy()

    def logit_rows(self, outputs: Outputs) -> Tensor:
        """(rows, classes): one row for each decision, as `label_rows` counts them; only where `has_logits`."""
        raise NotImplementedError(f"{self.name} has no logits")

    def label_rows(self, labels: Tensor) -> Tensor:
        """(rows,): the class of each decision, -1 where there is none; only where `has_logits`."""
        raise NotImplementedError(f"{self.name} has no logits")

    def class_counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """How often each class occurs, (classes,); empty where there are no classes."""
        del labels, classes
        return np.zeros(0, np.int64)

    def score(self, outputs: Arrays, labels: NDArray[Any]) -> float:
        """The metric over all of these samples."""
        return self.score_of(self.statistics(outputs, labels))

    def score_of(self, statistics: Statistics) -> float:
        """The metric over all of these samples, from their statistics."""
        return float(self.metric_over(statistics, np.ones(len(statistics), np.int64)))


class SummedTask(Task, ABC):
    """A task whose metric follows from sums over samples, such as what is right and what there is."""

    def metric_over(self, statistics: Statistics, counts: Counts) -> NDArray[np.float64]:
        return self.metric_of(counts @ statistics)

    @abstractmethod
    def metric_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The metric from statistics summed over samples: (..., k) -> (...)."""


def interface_of(task: Task, inputs: tuple[Any, ...], classes: int) -> Interface:
    """What a network must take and give for this task and these inputs."""
    return Interface(inputs, dict(task.output_shapes({spec.name: spec.shape for spec in inputs}, classes)), classes)
