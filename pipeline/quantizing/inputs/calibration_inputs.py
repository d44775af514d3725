"""Calibration batches for an ONNX graph of the user's own: from arrays, or from a folder of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.checking.scale_checks import check_scale
from pipeline.data.preprocess import Preprocess
from pipeline.errors import DataRejected, RecipeError
from pipeline.mistakes import explained
from pipeline.quantizing.inputs.array_inputs import data_from_npy_files, data_from_npz, holds_npy_files
from pipeline.quantizing.inputs.graph_inputs import (
    GraphInput,
    check_whole_batches,
    graph_inputs,
    images_a_run,
    size_of_batches,
)
from pipeline.quantizing.settings import CalibrationData
from pipeline.samples import image_files, read_image

if TYPE_CHECKING:
    from calibration.statistics.collect import Batch


def require_files(*paths: Path) -> None:
    """Raises RecipeError naming the first that is not there."""
    for path in paths:
        if not path.exists():
            raise RecipeError(f"{path}: there is no such file or folder")


def calibration_data(model: Path, data: Path, preprocess: Path | None, batch_size: int) -> tuple[CalibrationData, int]:
    """A .npz or a folder for the graph's inputs, and the size of its batches."""
    require_files(model, data, *([preprocess] if preprocess else []))
    inputs = graph_inputs(model)
    size = size_of_batches(inputs, batch_size)
    return data_from(data, preprocess, inputs, size), size


def data_from(path: Path, preprocess: Path | None, inputs: Mapping[str, GraphInput], size: int) -> CalibrationData:
    """A .npz, a folder of .npy files, or one of images, in batches of a size.

    Raises RecipeError where preprocessing was given that nothing would apply.
    """
    images = path.is_dir() and not holds_npy_files(path)
    if preprocess and not images:
        raise RecipeError(
            f"--preprocess {preprocess} is for a folder of images; "
            f"{path} holds what the graph takes already: leave it out"
        )
    if images:
        return data_from_images(path, inputs, size, preprocess_from_json(preprocess))
    return data_from_npy_files(path, inputs, size) if path.is_dir() else data_from_npz(path, inputs, size)


def data_from_images(
    folder: Path, inputs: Mapping[str, GraphInput], batch_size: int, preprocess: Preprocess
) -> CalibrationData:
    """Batches of its images, decoded when they are asked for."""
    from calibration.statistics.collect import Batch

    if len(inputs) != 1:
        raise RecipeError(f"the graph has inputs {', '.join(inputs)}; images feed one, give a .npz instead")
    ((name, wanted),) = inputs.items()
    files = image_files(folder)
    if not files:
        raise DataRejected(f"{folder}: holds no images")
    check_whole_batches(folder, len(files), inputs, batch_size)

    def chosen(numbers: Sequence[int]) -> Iterator[Batch]:
        for start in range(0, len(numbers), batch_size):
            part = [files[each] for each in numbers[start : start + batch_size]]
            images = _stacked([preprocess.apply(read_image(file), str(file)) for file in part], folder)
            wanted.check(images.shape, images.dtype, f"{part[0]}: after preprocessing, input '{name}'")
            names = [str(file.relative_to(folder)) for file in part]
            check_scale(preprocess, images, names)
            yield Batch(names, {name: images})

    def between(first: int, stop: int) -> Iterator[Batch]:
        return chosen(range(first, stop))

    def digest() -> str:
        settings = preprocess.model_dump_json().encode()
        named = (part for file in files for part in (str(file.relative_to(folder)).encode(), file.read_bytes()))
        return _digest(chain((settings,), named))

    return CalibrationData(len(files), lambda: between(0, len(files)), between, chosen, digest, images_a_run(inputs))


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


def _stacked(images: Sequence[NDArray[np.float32]], folder: Path) -> NDArray[np.float32]:
    if len({image.shape for image in images}) != 1:
        raise DataRejected(f"{folder}: images have different sizes; give --preprocess with resize, crop")
    return np.stack(images)
