"""`edgestill calibrate`: the statistics of a graph's activations, or a shard of them, in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calibration.origin import Shard
from pipeline import atomic
from pipeline.calibration_images import asked_for, images_from_text
from pipeline.calibration_inputs import calibration_data
from pipeline.calibration_pass import Pass, measured
from pipeline.cancellation import Cancellation
from pipeline.errors import RecipeError
from pipeline.outcome import Outcome
from pipeline.progress import Progress
from pipeline.quantization import prepared_graph, quantization_errors_explained
from pipeline.quantization_settings import checked_method
from pipeline.workspace import disk_errors_explained


@dataclass(frozen=True)
class CalibrateRequest:
    """What the command line asked for."""

    model: Path
    data: Path
    shard: str
    """Such as 2/8."""
    out: Path | None
    preprocess: Path | None
    batch_size: int
    """Where the graph does not fix it."""
    threads: int
    images: str = "all"
    """How many of the data: all, auto or a number."""
    method: str = "entropy"
    """Whose ranges are to be tight, where that decides."""


def calibrate(request: CalibrateRequest, progress: Progress, cancellation: Cancellation) -> Outcome:
    """Writes the file of sketches; `<file>.partial` is there while it is unfinished, and is taken up again."""
    try:
        shard = Shard.from_text(request.shard)
    except ValueError as error:
        raise RecipeError(f"--shard: {error}") from error
    try:
        images, method = images_from_text(request.images), checked_method(request.method)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if images == "auto" and shard.of > 1:
        raise RecipeError(
            "--images auto looks at all images that came, and a shard sees its own; leave one of them out"
        )
    data, _ = calibration_data(request.model, request.data, request.preprocess, request.batch_size)
    file = request.out or _beside(request.model, shard)
    partial = file.with_name(f"{file.name}.partial")
    with disk_errors_explained(file.parent), quantization_errors_explained(request.model.name):
        model = prepared_graph(request.model)
        data = asked_for(data, images, "--images")
        wanted = Pass(request.threads, shard, partial, method if images == "auto" else None)
        sketches = measured(model, data, wanted, progress, cancellation)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(file) as temporary:
            sketches.save(temporary)
        partial.unlink(missing_ok=True)
    document = {
        "model": str(request.model),
        "shard": request.shard,
        "images": sketches.images,
        "samples": data.samples,
        "tensors": len(sketches.tensors),
        "file": str(file),
    }
    line = f"{sketches.images} of {data.samples} samples, {len(sketches.tensors)} tensors; wrote {file}"
    return Outcome(document, lambda console: console.print(line, markup=False, soft_wrap=True))


def _beside(model: Path, shard: Shard) -> Path:
    part = "" if shard.of == 1 else f".{shard.number}-of-{shard.of}"
    return model.with_name(f"{model.stem}{part}.sketches.npz")
