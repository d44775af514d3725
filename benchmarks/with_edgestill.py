"""edgestill as a tool to be measured: what `edgestill quantize` does, its files apart."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks.quantizing import Job


def imports() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript.rewriter", "calibration.collect", "calibration.prepare"):
        importlib.import_module(name)


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("edgestill", "onnxruntime")}


def quantize(job: Job) -> None:
    """One pass for all families."""
    from calibration.collect import Batch
    from pipeline import atomic
    from pipeline.calibration_inputs import graph_inputs
    from pipeline.cancellation import Cancellation
    from pipeline.progress import QuietProgress
    from pipeline.quantization import model_bytes, quantized
    from pipeline.quantization_settings import CalibrationData, QuantizationSettings

    (feed,) = graph_inputs(Path(job.graph))

    def batches() -> Iterator[Batch]:
        done = 0
        for images in job.batches():
            yield Batch([str(done + index) for index in range(len(images))], {feed: images})
            done += len(images)

    settings = QuantizationSettings(job.method, job.schemes, job.threads)
    data = CalibrationData(job.count, batches)
    result = quantized(Path(job.graph), data, settings, QuietProgress(), Cancellation())
    for family, model in result.int8.items():
        atomic.write_bytes(job.file(family), model_bytes(model))
