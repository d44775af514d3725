"""How a quantized graph's answers are judged beside the float graph's: by a task's metric, by labels, by agreement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.tasks.classification import ratio, right
from pipeline.tasks.intervals import Interval, bootstrap_difference, share_difference
from pipeline.tasks.task import Arrays, Counts, Statistics, Task

if TYPE_CHECKING:
    from calibration.statistics.collect import Batch


class Yardstick(ABC):
    """A metric that statistics of samples determine. Its subclasses are final."""

    metric: str
    """In words; higher is better, 1 is perfect."""
    counts_samples: bool
    """Whether it is the share of samples that are right; its statistics are then (1 or 0, 1)."""
    outputs: tuple[str, ...] = ()
    """Those whose statistics need all samples at once; empty where a batch after another will do."""

    @abstractmethod
    def statistics(self, found: Arrays, wanted: Arrays, labels: NDArray[Any] | None) -> Statistics:
        """(samples, k) of answers, beside the float graph's and the labels."""

    @abstractmethod
    def metric_over(self, statistics: Statistics, counts: Counts) -> NDArray[np.float64]:
        """The metric of the samples, each as often as it is counted: (samples, k) and (..., samples) -> (...)."""

    def most_frequent(self, labels: NDArray[Any] | None) -> float | None:
        """The metric of always answering the most frequent label; None where labels are no classes of samples."""
        del labels
        return None

    def value(self, statistics: Statistics) -> float:
        """The metric of these samples."""
        return float(self.metric_over(statistics, np.ones(len(statistics), np.int64)))

    def drop(self, found: Statistics, reference: Statistics) -> Interval:
        """Of the metric against the reference's on the same samples; below 0 where it rises."""
        if self.counts_samples:
            gain = share_difference(found[:, 0] > 0, reference[:, 0] > 0)
        else:
            gain = bootstrap_difference(found, reference, self.metric_over)
        return Interval(-gain.value + 0.0, -gain.high + 0.0, -gain.low + 0.0, gain.n, gain.confidence)


@final
class TaskMetric(Yardstick):
    """What the recipe's task counts."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.metric, self.counts_samples, self.outputs = task.metric, task.counts_samples, task.outputs

    def statistics(self, found: Arrays, wanted: Arrays, labels: NDArray[Any] | None) -> Statistics:
        del wanted
        if labels is None:
            raise DataRejected(f"{self.metric} needs labels, and the samples have none")
        return self._task.statistics(found, labels)

    def metric_over(self, statistics: Statistics, counts: Counts) -> NDArray[np.float64]:
        return self._task.metric_over(statistics, counts)

    def most_frequent(self, labels: NDArray[Any] | None) -> float | None:
        return _share_of_most_frequent(labels) if self.counts_samples else None


@final
class Top1Accuracy(Yardstick):
    """Of the graph's one output of shape (batch, classes)."""

    metric = "top-1 accuracy"
    counts_samples = True

    def __init__(self, output: str) -> None:
        self._output = output

    def statistics(self, found: Arrays, wanted: Arrays, labels: NDArray[Any] | None) -> Statistics:
        del wanted
        logits = found[self._output]
        if labels is None:
            raise DataRejected("top-1 accuracy needs labels, and the samples have none")
        if len(labels) and (labels.min() < 0 or labels.max() >= logits.shape[1]):
            raise DataRejected(
                f"labels go from {labels.min()} to {labels.max()}; output '{self._output}' has {logits.shape[1]} "
                f"classes, so they go from 0 to {logits.shape[1] - 1}"
            )
        correct = right(logits, labels, axis=1)
        return np.stack([correct, np.ones_like(correct)], axis=1).astype(np.float64)

    def metric_over(self, statistics: Statistics, counts: Counts) -> NDArray[np.float64]:
        return _share(counts @ statistics)

    def most_frequent(self, labels: NDArray[Any] | None) -> float | None:
        return _share_of_most_frequent(labels)


@final
class Agreement(Yardstick):
    """Share of decisions in which the largest class is the float graph's."""

    metric = "agreement with FP32's top-1"

    def __init__(self, axes: dict[str, int], one_a_sample: bool) -> None:
        """`axes` are those of the classes by output, as `calibration.quality.class_axis` finds them."""
        self._axes, self.counts_samples = axes, one_a_sample

    def statistics(self, found: Arrays, wanted: Arrays, labels: NDArray[Any] | None) -> Statistics:
        del labels
        equal, rows = (np.zeros(len(next(iter(found.values())))) for _ in range(2))
        for name, axis in self._axes.items():
            same = right(found[name], wanted[name].argmax(axis), axis).reshape(len(equal), -1)
            equal += same.sum(axis=1)
            rows += same.shape[1]
        return np.stack([equal, rows], axis=1)

    def metric_over(self, statistics: Statistics, counts: Counts) -> NDArray[np.float64]:
        return _share(counts @ statistics)


def _share(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratio(sums[..., 0], sums[..., 1])


def _share_of_most_frequent(labels: NDArray[Any] | None) -> float | None:
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "ui" or not len(labels):
        return None
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


@dataclass(frozen=True)
class JudgingData:
    """The samples on which graphs are judged, in batches that can be gone through as often as a step asks."""

    samples: int
    batches: Callable[[], Iterator[Batch]]
    labels: NDArray[Any] | None
    """In the order of the batches."""
    called: str
    """What they are, such as `validation split`."""
    identity: str
    """Digest of what they hold."""
    of_samples: int | None = None
    """How many there are, where these are some of them."""
