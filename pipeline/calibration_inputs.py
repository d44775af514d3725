"""Calibration batches for an ONNX graph of the user's own: from the arrays of a .npz, or from a folder of images."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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

    def batches() -> Iterator[Batch]:
        for start in range(0, total, batch_size):
            ids = [str(index) for index in range(start, min(start + batch_size, total))]
            yield Batch(ids, {name: arrays[name][start : start + batch_size] for name in inputs})

    return CalibrationData(total, batches)


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

    def batches() -> Iterator[Batch]:
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            images = _stacked([preprocess.apply(read_image(file), str(file)) for file in part], folder)
            wanted.check(images, f"{folder}: an image after preprocessing")
            yield Batch([str(file.relative_to(folder)) for file in part], {name: images})

    return CalibrationData(len(files), batches)


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
