"""What `[calibrate]` of a recipe does, in this process: images come a batch at a time, and none is kept."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks.calibrating.quantizing import Job

PASS = "pass"  # noqa: S105 - the pass over the images
"""In place of a method: the statistics alone, from which every method takes its ranges."""


def imports() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript.rewriter", "calibration.statistics.collect", "calibration.prepare"):
        importlib.import_module(name)


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("edgestill", "onnxruntime")}


def quantize(job: Job) -> None:
    """One pass for all families."""
    import onnx

    from calibration.prepare import prepared
    from calibration.statistics.collect import Batch, collect
    from pipeline.files.onnx_file import write_graph
    from pipeline.process.cancellation import Cancellation
    from pipeline.process.progress import QuietProgress
    from pipeline.quantizing.quantization import quantized
    from pipeline.quantizing.settings import CalibrationData, QuantizationSettings

    model = onnx.load(job.graph)
    feed = model.graph.input[0].name

    def batches() -> Iterator[Batch]:
        done = 0
        for images in job.batches():
            yield Batch([str(done + index) for index in range(len(images))], {feed: images})
            done += len(images)

    if job.method == PASS:
        sketches = collect(prepared(model), batches(), threads=job.threads, samples=job.count)
        sketches.save(job.file(PASS).with_suffix(".npz"))
        return
    settings = QuantizationSettings(job.method, job.schemes, job.threads)
    data = CalibrationData(job.count, batches)
    result = quantized(Path(job.graph), data, settings, QuietProgress(), Cancellation())
    for family, made in result.int8.items():
        write_graph(job.file(family), made)
