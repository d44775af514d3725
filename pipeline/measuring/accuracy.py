"""What each form of the network gets right on the test split: teacher, student, graph and every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import UINT8_NHWC, Session, Target
from pipeline.artifact import Artifacts, Graph, Student, Teacher
from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.exporting.parity import ReferenceSession
from pipeline.measuring.predictions import predictions
from pipeline.models.weights import load_network
from pipeline.tasks.intervals import Interval, bootstrap, bootstrap_ratio, share, share_ratio
from pipeline.tasks.task import Statistics, Task

BATCH_SIZE = 64

Inputs = Callable[[NDArray[np.int64]], Mapping[str, NDArray[Any]]]
"""Indices -> inputs by name."""

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Inputs by name -> outputs by name."""


@dataclass(frozen=True)
class Predictions:
    """What one form of the network answers on the test split, and what the metric needs of it."""

    outputs: Mapping[str, NDArray[Any]]
    """By name, (samples, ...)."""
    statistics: Statistics
    """(samples, k)."""


def metric_interval(task: Task, statistics: Statistics) -> Interval:
    """The task's metric over these samples, with its interval."""
    return share(statistics[:, 0] > 0) if task.counts_samples else bootstrap(statistics, task.metric_over)


class TestSplit:
    """The samples that no other stage has seen."""

    __test__ = False  # not a test class, whatever its name suggests to pytest

    def __init__(self, dataset: Dataset, context: Context) -> None:
        self.dataset, self._context = dataset, context
        self.indices = dataset.indices("test")
        self.labels = dataset.labels(self.indices)

    def metric(self, found: Predictions) -> Interval:
        """The task's metric with its interval."""
        return metric_interval(self._context.task, found.statistics)

    def ratio(self, found: Predictions, reference: Predictions) -> Interval | None:
        """Of the metric to a reference's; None where the reference has nothing to divide by."""
        if self._context.task.score_of(reference.statistics) <= 0:
            return None
        if self._context.task.counts_samples:
            return share_ratio(found.statistics[:, 0] > 0, reference.statistics[:, 0] > 0)
        return bootstrap_ratio(found.statistics, reference.statistics, self._context.task.metric_over)

    @property
    def interval_in_words(self) -> str:
        """How the intervals come about."""
        return "Wilson score" if self._context.task.counts_samples else "bootstrap over samples"

    @property
    def chance(self) -> float:
        """The metric of the best answer that does not look at its input."""
        return self._context.task.chance(self.labels, len(self.dataset.classes))

    def of_networks(self, inputs: Artifacts) -> Iterator[tuple[str, Predictions]]:
        """Teacher, baseline where there is one, and student, in torch."""
        forms: list[tuple[str, Teacher | Student, str]] = [("teacher", inputs[Teacher], "teacher.safetensors")]
        if inputs[Student].path("baseline.safetensors").exists():
            forms.append(("baseline", inputs[Student], "baseline.safetensors"))
        forms.append(("student", inputs[Student], "student.safetensors"))
        for name, artifact, weights in forms:
            self._context.cancellation.check()
            network = load_network(artifact, weights, self._context)
            yield name, self._judged(predictions(network, self.dataset, self.indices))

    def of_graph(self, inputs: Artifacts) -> Predictions:
        """The exported graph as it is written, in onnxruntime without optimization."""
        reference = ReferenceSession(inputs[Graph].model, self._context.threads)
        return self._batched(reference.run, self.dataset.inputs, BATCH_SIZE)

    def of_session(self, session: Session, target: Target, smallest_batch: int, largest_batch: int) -> Predictions:
        """An engine that runs here, in batches that it takes, on what its target takes."""
        inputs: Inputs = self.dataset.bytes_of if target.input == UINT8_NHWC else self.dataset.inputs
        return self._batched(session.run, inputs, max(min(BATCH_SIZE, largest_batch), smallest_batch), smallest_batch)

    def _batched(self, run: Run, inputs: Inputs, batch_size: int, smallest_batch: int = 1) -> Predictions:
        parts: list[dict[str, NDArray[Any]]] = []
        names = self._context.task.outputs
        for start in range(0, len(self.indices), batch_size):
            self._context.cancellation.check()
            part = self.indices[start : start + batch_size]
            # The last batch may be smaller than the engine takes: it is filled by repetition, which is cut off again.
            filled = np.resize(part, max(len(part), smallest_batch))
            outputs = run(inputs(filled))
            parts.append({name: outputs[name][: len(part)] for name in names})
        return self._judged({name: np.concatenate([part[name] for part in parts]) for name in names})

    def _judged(self, outputs: Mapping[str, NDArray[Any]]) -> Predictions:
        return Predictions(outputs, self._context.task.statistics(outputs, self.labels))
