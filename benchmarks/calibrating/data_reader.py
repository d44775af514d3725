"""Calibration images as the peers read them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibrating.quantizing import Job

Feeds = dict[str, NDArray[np.float32]]


class DataReader:
    """What onnxruntime calls a CalibrationDataReader, with the two further methods that Model Optimizer wants."""

    def __init__(self, job: Job) -> None:
        import onnx

        self._job = job
        self._feed = onnx.load(job.graph, load_external_data=False).graph.input[0].name
        self._batches = job.batches()

    def get_next(self) -> Feeds | None:
        """The next batch; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._feed: batch}

    def get_first(self) -> Feeds:
        """The first batch, wherever the reader is."""
        return {self._feed: next(self._job.batches())}

    def rewind(self) -> None:
        """Starts again."""
        self._batches = self._job.batches()

    def __iter__(self) -> DataReader:
        return self

    def __next__(self) -> Feeds:
        found = self.get_next()
        if found is None:
            raise StopIteration
        return found
