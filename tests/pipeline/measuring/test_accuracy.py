"""Accuracy on the test split: every image once, in batches that an engine takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_training import CLASSES, context_in, dataset_in

from engines.base import Arrays, Session, Target, TensorInfo
from pipeline.measuring.accuracy import TestSplit
from pipeline.models.interface import IMAGE


class Recording(Session):
    """Answers with where an image is bright, and keeps the sizes of the batches that it was given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return (TensorInfo(IMAGE, "float32", (-1, 1, 8, 8)),)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return (TensorInfo("logits", "float32", (-1, CLASSES)),)

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        images = feeds[IMAGE]
        self.sizes.append(len(images))
        rows = [images[:, 0, 2 * label : 2 * label + 3].mean(axis=(1, 2)) for label in range(CLASSES)]
        return {"logits": np.stack(rows, axis=1)}

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.mark.parametrize(
    ("smallest", "largest", "sizes"),
    [(1, 64, [12]), (1, 5, [5, 5, 2]), (5, 5, [5, 5, 5]), (8, 16, [12]), (16, 64, [16])],
)
def test_an_engine_is_asked_in_batches_that_its_profile_takes_and_each_image_counts_once(
    tmp_path: Path, smallest: int, largest: int, sizes: list[int]
) -> None:
    session = Recording()
    split = TestSplit(dataset_in(tmp_path), context_in(tmp_path))
    assert len(split.indices) == 12
    found = split.of_session(session, Target("cpu", "onnxruntime"), smallest, largest)
    assert session.sizes == sizes
    assert found.outputs["logits"].shape == (12, CLASSES)
    assert split.metric(found).value > 0.9
