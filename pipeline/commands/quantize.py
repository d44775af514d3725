"""`edgestill quantize`: calibration of an ONNX file that no recipe made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calibration import FAMILIES, METHODS
from pipeline import atomic
from pipeline.cancellation import Cancellation
from pipeline.errors import RecipeError
from pipeline.feeds import batches_from_images, batches_from_npz, graph_inputs, preprocess_from_json
from pipeline.names import unknown
from pipeline.outcome import Outcome
from pipeline.progress import Progress
from pipeline.quantization import Quantized, model_bytes, placement_document, quantized
from pipeline.workspace import disk_errors_explained

if TYPE_CHECKING:
    from rich.console import Console

    from calibration.collect import Batch


@dataclass(frozen=True)
class QuantizeRequest:
    """What the command line asked for."""

    model: Path
    data: Path
    families: tuple[str, ...]
    method: str
    preprocess: Path | None
    out: Path | None
    batch_size: int
    threads: int


def quantize(request: QuantizeRequest, progress: Progress, cancellation: Cancellation) -> Outcome:
    """Writes ranges.json, sketches.npz, placement.json, fp16.onnx and <family>.int8.onnx."""
    _check(request)
    count, batches = _batches(request)
    result = quantized(
        request.model, batches, request.method, request.families, request.threads, count, progress, cancellation
    )
    folder = request.out or request.model.parent
    files = _write(result, folder, request.model.stem)
    document = {
        "model": str(request.model),
        "images": result.sketches.images,
        "method": request.method,
        "files": [str(file) for file in files],
        "placement": placement_document(result),
    }
    return Outcome(document, lambda console: _show(console, result, files))


def _check(request: QuantizeRequest) -> None:
    if request.method not in METHODS:
        raise RecipeError(unknown("method", request.method, METHODS))
    for family in request.families:
        if family not in ("cpu", *FAMILIES):
            raise RecipeError(unknown("family", family, ("cpu", *FAMILIES)))
    for path in (request.model, request.data, *([request.preprocess] if request.preprocess else [])):
        if not path.exists():
            raise RecipeError(f"{path}: there is no such file or folder")


def _batches(request: QuantizeRequest) -> tuple[int, Iterator[Batch]]:
    inputs = graph_inputs(request.model)
    if request.data.is_dir():
        preprocess = preprocess_from_json(request.preprocess)
        return batches_from_images(request.data, inputs, request.batch_size, preprocess)
    return batches_from_npz(request.data, inputs, request.batch_size)


def _write(result: Quantized, folder: Path, stem: str) -> list[Path]:
    with disk_errors_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{stem}.{name}" for name in ("sketches.npz", "ranges.json", "placement.json", "fp16.onnx")]
        with atomic.replacing(files[0]) as sketches, atomic.replacing(files[1]) as ranges:
            result.sketches.save(sketches)
            result.ranges.save(ranges)
        atomic.write_json(files[2], placement_document(result))
        atomic.write_bytes(files[3], model_bytes(result.float16))
        for family, model in result.int8.items():
            files.append(folder / f"{stem}.{family}.int8.onnx")
            atomic.write_bytes(files[-1], model_bytes(model))
    return files


def _show(console: Console, result: Quantized, files: list[Path]) -> None:
    for family, placement in result.placements.items():
        quantized_nodes = len(placement.quantized_nodes)
        console.print(f"{family}: {quantized_nodes} of {len(placement.decisions)} nodes in INT8", markup=False)
        for decision in placement.decisions:
            if not decision.quantized and decision.operator in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                console.print(f"  {decision.node} ({decision.operator}) in float: {decision.reason}", markup=False)
    for file in files:
        console.print(f"wrote {file}", markup=False, soft_wrap=True)
