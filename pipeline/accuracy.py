"""What each form of the network gets right on the test split: teacher, student, graph and every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import Session
from pipeline.artifact import Artifacts, Graph, Student, Teacher
from pipeline.context import Context
from pipeline.data import Dataset
from pipeline.distillation.trainer import predictions
from pipeline.exporter import INPUT
from pipeline.parity import ReferenceSession
from pipeline.weights import load_network

BATCH_SIZE = 64

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Inputs by name -> outputs by name."""


@dataclass(frozen=True)
class Predictions:
    """Outputs of one form of the network, one row a test image."""

    outputs: NDArray[Any]
    """(images, outputs)."""
    correct: NDArray[np.bool_]
    """(images,)."""


class TestSplit:
    """The images that no other stage has seen."""

    __test__ = False  # not a test class, whatever its name suggests to pytest

    def __init__(self, dataset: Dataset, context: Context) -> None:
        self.dataset, self._context = dataset, context
        self.indices = dataset.indices("test")
        self.labels = dataset.labels(self.indices)

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
        return self._batched(reference.run, BATCH_SIZE)

    def of_session(self, session: Session, smallest_batch: int, largest_batch: int) -> Predictions:
        """An engine that runs here, in batches that its profile takes."""
        return self._batched(session.run, max(min(BATCH_SIZE, largest_batch), smallest_batch), smallest_batch)

    def _batched(self, run: Run, batch_size: int, smallest_batch: int = 1) -> Predictions:
        parts = []
        for start in range(0, len(self.indices), batch_size):
            self._context.cancellation.check()
            part = self.indices[start : start + batch_size]
            # The last batch may be smaller than the engine takes: it is filled by repetition, which is cut off again.
            filled = np.resize(part, max(len(part), smallest_batch))
            outputs = run({INPUT: self.dataset.images(filled)})[self._context.task.outputs[0]]
            parts.append(outputs[: len(part)])
        return self._judged(np.concatenate(parts))

    def _judged(self, outputs: NDArray[Any]) -> Predictions:
        return Predictions(outputs, self._context.task.correct(outputs, self.labels))
