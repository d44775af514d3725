"""`edgestill quantize`: calibration of an ONNX file that no recipe made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from calibration import FAMILIES, METHODS
from pipeline import atomic
from pipeline.cancellation import Cancellation
from pipeline.errors import DataRejected, NotAcceptable, RecipeError
from pipeline.names import unknown
from pipeline.outcome import Outcome
from pipeline.preprocess import Preprocess
from pipeline.progress import Progress
from pipeline.quantization import Quantized, model_bytes, placement_document, quantized
from pipeline.samples import image_files, read_image
from pipeline.workspace import disk_errors_explained

if TYPE_CHECKING:
    from numpy.typing import NDArray
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
    inputs = _graph_inputs(request.model)
    count, batches = _batches(request, inputs)
    with progress.phase("calibrating", count) as phase:
        done = 0

        def on_batch(images: int) -> None:
            nonlocal done
            cancellation.check()
            phase.advance(images - done)
            done = images

        result = quantized(request.model, batches, request.method, request.families, request.threads, on_batch)
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


def _graph_inputs(model: Path) -> tuple[str, ...]:
    """Names of the inputs that are fed."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except (DecodeError, ValueError, OSError) as error:
        raise NotAcceptable(f"{model}: is not an ONNX file ({error})") from error
    constants = {initializer.name for initializer in graph.initializer}
    return tuple(entry.name for entry in graph.input if entry.name not in constants)


def _batches(request: QuantizeRequest, inputs: tuple[str, ...]) -> tuple[int, Iterator[Batch]]:
    if request.data.is_dir():
        return _image_batches(request, inputs)
    return _array_batches(request, inputs)


def _array_batches(request: QuantizeRequest, inputs: tuple[str, ...]) -> tuple[int, Iterator[Batch]]:
    from calibration.collect import Batch

    arrays = _arrays(request.data)
    if missing := set(inputs) - set(arrays):
        raise DataRejected(
            f"{request.data}: has no array '{min(missing)}'; the graph's inputs are {', '.join(inputs)}, "
            f"found {', '.join(arrays) or 'none'}"
        )
    counts = {name: len(arrays[name]) for name in inputs}
    if len(set(counts.values())) != 1:
        raise DataRejected(f"{request.data}: the arrays hold different numbers of samples: {counts}")
    total = next(iter(counts.values()))

    def batches() -> Iterator[Batch]:
        for start in range(0, total, request.batch_size):
            ids = [str(index) for index in range(start, min(start + request.batch_size, total))]
            yield Batch(ids, {name: arrays[name][start : start + request.batch_size] for name in inputs})

    return total, batches()


def _image_batches(request: QuantizeRequest, inputs: tuple[str, ...]) -> tuple[int, Iterator[Batch]]:
    from calibration.collect import Batch

    if len(inputs) != 1:
        raise RecipeError(f"{request.model}: has inputs {', '.join(inputs)}; images feed one, give a .npz instead")
    preprocess = _preprocess(request.preprocess)
    files = image_files(request.data)
    if not files:
        raise DataRejected(f"{request.data}: holds no images")

    def batches() -> Iterator[Batch]:
        for start in range(0, len(files), request.batch_size):
            part = files[start : start + request.batch_size]
            images = [preprocess.apply(read_image(file)) for file in part]
            if len({image.shape for image in images}) != 1:
                raise DataRejected(f"{request.data}: images have different sizes; give --preprocess with resize, crop")
            yield Batch([str(file.relative_to(request.data)) for file in part], {inputs[0]: np.stack(images)})

    return len(files), batches()


def _preprocess(path: Path | None) -> Preprocess:
    if path is None:
        raise RecipeError("images need --preprocess: a JSON file with scale, mean, std and, where needed, resize, crop")
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        return Preprocess.model_validate(document.get("preprocess", document) if isinstance(document, dict) else {})
    except (OSError, ValueError, ValidationError) as error:
        raise RecipeError(f"{path}: is no preprocessing: {error}") from error


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataRejected(f"{path}: is not a readable .npz of plain arrays ({error})") from error


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
