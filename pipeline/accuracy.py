"""What each form of the network gets right on the test split: teacher, student, graph and every engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from pipeline.parity import reference_outputs
from pipeline.weights import load_network

BATCH_SIZE = 64


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
        return self._batched(
            lambda feeds: reference_outputs(inputs[Graph].model, feeds, self._context.threads), BATCH_SIZE
        )

    def of_session(self, session: Session, largest_batch: int) -> Predictions:
        """An engine that runs here."""
        return self._batched(session.run, min(BATCH_SIZE, largest_batch))

    def _batched(self, run: Any, batch_size: int) -> Predictions:
        parts = []
        for start in range(0, len(self.indices), batch_size):
            self._context.cancellation.check()
            feeds: Mapping[str, Any] = {INPUT: self.dataset.images(self.indices[start : start + batch_size])}
            parts.append(run(feeds)[self._context.task.outputs[0]])
        return self._judged(np.concatenate(parts))

    def _judged(self, outputs: NDArray[Any]) -> Predictions:
        return Predictions(outputs, self._context.task.correct(outputs, self.labels))
