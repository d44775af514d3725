"""Calibration batches for an ONNX graph of the user's own: from the arrays of a .npz, or from a folder of images."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.errors import DataRejected, NotAcceptable, RecipeError
from pipeline.mistakes import explained
from pipeline.preprocess import Preprocess
from pipeline.quantization_settings import CalibrationData
from pipeline.samples import image_files, read_image

if TYPE_CHECKING:
    from calibration.collect import Batch


@dataclass(frozen=True)
class GraphInput:
    """What one input of a graph takes; a dynamic dimension (a name, nothing, 0 or less) is None."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def batch_size(self) -> int | None:
        """Where the graph fixes it."""
        return self.shape[0] if self.shape else None

    def check(self, array: NDArray[Any], where: str) -> None:
        """Raises DataRejected where samples along the first axis of `array` do not fit."""
        fits = array.ndim == len(self.shape) and all(
            wanted in (None, found) for wanted, found in zip(self.shape[1:], array.shape[1:], strict=True)
        )
        if not fits or array.ndim == 0:
            wanted = ", ".join("any" if size is None else str(size) for size in self.shape[1:])
            raise DataRejected(f"{where} has shape {array.shape}; the graph takes (samples, {wanted})")
        if array.dtype != self.dtype:
            raise DataRejected(
                f"{where} is {array.dtype}; the graph takes {self.dtype}: save it .astype('{self.dtype}')"
            )


def require_files(*paths: Path) -> None:
    """Raises RecipeError naming the first that is not there."""
    for path in paths:
        if not path.exists():
            raise RecipeError(f"{path}: there is no such file or folder")


def calibration_data(model: Path, data: Path, preprocess: Path | None, batch_size: int) -> tuple[CalibrationData, int]:
    """A .npz or a folder of images for the graph's inputs, and the size of its batches."""
    require_files(model, data, *([preprocess] if preprocess else []))
    if preprocess and not data.is_dir():
        raise RecipeError(
            f"--preprocess {preprocess} is for a folder of images; "
            f"{data} holds what the graph takes already: leave it out"
        )
    inputs = graph_inputs(model)
    size = size_of_batches(inputs, batch_size)
    if data.is_dir():
        return data_from_images(data, inputs, size, preprocess_from_json(preprocess)), size
    return data_from_npz(data, inputs, size), size


def graph_inputs(model: Path) -> dict[str, GraphInput]:
    """The inputs that are fed, by name; raises NotAcceptable where the file is no ONNX graph."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except (DecodeError, ValueError, OSError) as error:
        raise NotAcceptable(f"{model}: is not an ONNX file ({error})") from error
    constants = {initializer.name for initializer in graph.initializer}
    found = {entry.name: _graph_input(entry.type.tensor_type) for entry in graph.input if entry.name not in constants}
    if not found:
        raise NotAcceptable(f"{model}: is not an ONNX file, or its graph has no input")
    return found


def size_of_batches(inputs: Mapping[str, GraphInput], wanted: int) -> int:
    """What the graph fixes, else `wanted`; raises NotAcceptable where its inputs fix different sizes."""
    fixed = {name: each.batch_size for name, each in inputs.items() if each.batch_size is not None}
    if len(set(fixed.values())) > 1:
        raise NotAcceptable(f"the graph's inputs fix different batch sizes: {fixed}; export it with a dynamic batch")
    return next(iter(fixed.values()), wanted)


def data_from_npz(path: Path, inputs: Mapping[str, GraphInput], batch_size: int) -> CalibrationData:
    """Batches of its samples: one array for each input, samples along the first axis."""
    from calibration.collect import Batch

    arrays = _arrays(path)
    if missing := set(inputs) - set(arrays):
        raise DataRejected(
            f"{path}: has no array '{min(missing)}'; the graph's inputs are {', '.join(inputs)}, "
            f"found {', '.join(arrays) or 'none'}"
        )
    for name, wanted in inputs.items():
        wanted.check(arrays[name], f"{path}: array '{name}'")
    counts = {name: len(arrays[name]) for name in inputs}
    total = min(counts.values())
    if total != max(counts.values()):
        raise DataRejected(f"{path}: the arrays hold different numbers of samples: {counts}")
    if total == 0:
        raise DataRejected(f"{path}: holds no sample; give at least one, better a few hundred")
    _check_whole_batches(path, total, inputs, batch_size)

    def between(first: int, stop: int) -> Iterator[Batch]:
        for start in range(first, stop, batch_size):
            rows = slice(start, min(start + batch_size, stop))
            yield Batch([str(index) for index in range(total)[rows]], {name: arrays[name][rows] for name in inputs})

    def digest() -> str:
        return _digest(
            part for name in sorted(inputs) for part in (name.encode(), np.ascontiguousarray(arrays[name]).data)
        )

    return CalibrationData(total, lambda: between(0, total), between, digest, _images_a_run(inputs))


def data_from_images(
    folder: Path, inputs: Mapping[str, GraphInput], batch_size: int, preprocess: Preprocess
) -> CalibrationData:
    """Batches of its images, decoded when they are asked for."""
    from calibration.collect import Batch

    if len(inputs) != 1:
        raise RecipeError(f"the graph has inputs {', '.join(inputs)}; images feed one, give a .npz instead")
    ((name, wanted),) = inputs.items()
    files = image_files(folder)
    if not files:
        raise DataRejected(f"{folder}: holds no images")
    _check_whole_batches(folder, len(files), inputs, batch_size)

    def between(first: int, stop: int) -> Iterator[Batch]:
        for start in range(first, stop, batch_size):
            part = files[start : min(start + batch_size, stop)]
            images = _stacked([preprocess.apply(read_image(file), str(file)) for file in part], folder)
            wanted.check(images, f"{folder}: an image after preprocessing")
            yield Batch([str(file.relative_to(folder)) for file in part], {name: images})

    def digest() -> str:
        settings = preprocess.model_dump_json().encode()
        named = (part for file in files for part in (str(file.relative_to(folder)).encode(), file.read_bytes()))
        return _digest(chain((settings,), named))

    return CalibrationData(len(files), lambda: between(0, len(files)), between, digest, _images_a_run(inputs))


def preprocess_from_json(path: Path | None) -> Preprocess:
    """Of a workspace's preprocess.json, or the [data] preprocess table as JSON; raises RecipeError."""
    if path is None:
        raise RecipeError("images need --preprocess: a JSON file with scale, mean, std and, where needed, resize, crop")
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        return Preprocess.model_validate(document.get("preprocess", document) if isinstance(document, dict) else {})
    except ValidationError as error:
        raise RecipeError("\n".join(f"{path}: {line}" for line in explained(error, "", Preprocess))) from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: is no JSON file ({error})") from error


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part).digest())  # so that where one part ends is part of it
    return found.hexdigest()


def _images_a_run(inputs: Mapping[str, GraphInput]) -> int:
    return size_of_batches(inputs, 1)


def _check_whole_batches(data: Path, total: int, inputs: Mapping[str, GraphInput], batch_size: int) -> None:
    if total % batch_size and any(each.batch_size is not None for each in inputs.values()):
        raise DataRejected(
            f"{data}: holds {total} samples; the graph takes batches of exactly {batch_size}: "
            "give a multiple of it, or export the graph with a dynamic batch"
        )


def _graph_input(tensor: Any) -> GraphInput:
    from onnx import helper

    shape = tuple(each.dim_value if each.dim_value > 0 else None for each in tensor.shape.dim)
    return GraphInput(helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape)


def _stacked(images: Sequence[NDArray[np.float32]], folder: Path) -> NDArray[np.float32]:
    if len({image.shape for image in images}) != 1:
        raise DataRejected(f"{folder}: images have different sizes; give --preprocess with resize, crop")
    return np.stack(images)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataRejected(f"{path}: is not a readable .npz of plain arrays") from error
