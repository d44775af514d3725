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


_BYTE = 255
_LARGEST_SCALED = 2.0
"""No mean and no deviation of pixels from 0 to 1 comes near it."""

Preprocessing = Path | Preprocess | None
"""A JSON file of it, or `--mean` and `--std`, to which the graph's input adds the size; None where none was given."""


def require_files(*paths: Path) -> None:
    """Raises RecipeError naming the first that is not there."""
    for path in paths:
        if not path.exists():
            raise RecipeError(f"{path}: there is no such file or folder")


def calibration_data(
    model: Path, data: Path, preprocess: Preprocessing, batch_size: int
) -> tuple[CalibrationData, int]:
    """A .npz or a folder for the graph's inputs, and the size of its batches."""
    require_files(model, data, *([preprocess] if isinstance(preprocess, Path) else []))
    inputs = graph_inputs(model)
    size = size_of_batches(inputs, batch_size)
    return data_from(data, preprocess, inputs, size), size


def data_from(path: Path, preprocess: Preprocessing, inputs: Mapping[str, GraphInput], size: int) -> CalibrationData:
    """A .npz, a folder of .npy files, or one of images, in batches of a size.

    Raises RecipeError where preprocessing was given that nothing would apply.
    """
    images = path.is_dir() and not holds_npy_files(path)
    if preprocess and not images:
        given = "--mean and --std are" if isinstance(preprocess, Preprocess) else f"--preprocess {preprocess} is"
        rest = "them" if isinstance(preprocess, Preprocess) else "it"
        raise RecipeError(
            f"{given} for a folder of images; {path} holds what the graph takes already: leave {rest} out"
        )
    if images:
        return data_from_images(path, inputs, size, preprocess)
    return data_from_npy_files(path, inputs, size) if path.is_dir() else data_from_npz(path, inputs, size)


def data_from_images(
    folder: Path, inputs: Mapping[str, GraphInput], batch_size: int, preprocessing: Preprocessing
) -> CalibrationData:
    """Batches of its images, decoded when they are asked for."""
    from calibration.statistics.collect import Batch

    if len(inputs) != 1:
        raise RecipeError(f"the graph has inputs {', '.join(inputs)}; images feed one, give a .npz instead")
    ((name, wanted),) = inputs.items()
    preprocess = (
        _of_its_size(preprocessing, name, wanted)
        if isinstance(preprocessing, Preprocess)
        else preprocess_from_json(preprocessing)
    )
    files = image_files(folder)
    if not files:
        raise DataRejected(f"{folder}: holds no images")
    check_whole_batches(folder, len(files), inputs, batch_size)

    def chosen(numbers: Sequence[int]) -> Iterator[Batch]:
        for start in range(0, len(numbers), batch_size):
            part = [files[each] for each in numbers[start : start + batch_size]]
            images = _stacked([preprocess.apply(read_image(file), str(file)) for file in part], folder)
            fed = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if wanted.channels_last else images
            wanted.check(fed.shape, fed.dtype, f"{part[0]}: after preprocessing, input '{name}'")
            names = [str(file.relative_to(folder)) for file in part]
            check_scale(preprocess, images, names)
            yield Batch(names, {name: fed})

    def between(first: int, stop: int) -> Iterator[Batch]:
        return chosen(range(first, stop))

    def digest() -> str:
        settings = preprocess.model_dump_json().encode()
        named = (part for file in files for part in (str(file.relative_to(folder)).encode(), file.read_bytes()))
        return _digest(chain((settings,), named))

    return CalibrationData(len(files), lambda: between(0, len(files)), between, chosen, digest, images_a_run(inputs))


def preprocessing_from_options(preprocess: Path | None, mean: str | None, std: str | None) -> Preprocessing:
    """Of `--preprocess`, or of `--mean` and `--std`, which are of pixels from 0 to 1; raises RecipeError."""
    if mean is None and std is None:
        return preprocess
    if preprocess is not None:
        raise RecipeError(f"--mean and --std stand in place of --preprocess {preprocess}: give that alone, or these")
    if mean is None or std is None:
        given, other = ("--mean", "--std") if std is None else ("--std", "--mean")
        raise RecipeError(f"{given} goes with {other}: give both, each one number or one a channel")
    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    channels = max(len(means), len(stds))
    means, stds = (each * channels if len(each) == 1 else each for each in (means, stds))
    largest = max(*means, *stds)
    if largest > _LARGEST_SCALED:
        raise RecipeError(
            f"--mean and --std are of pixels from 0 to 1, and {largest:g} is of pixels from 0 to {_BYTE}: "
            f"divide them by {_BYTE}, or give --preprocess with scale, mean and std"
        )
    try:
        return Preprocess(scale=1 / _BYTE, mean=means, std=stds)
    except ValidationError as error:
        raise RecipeError("\n".join(f"--mean, --std: {line}" for line in explained(error, "", Preprocess))) from error


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise RecipeError(f"{option} {text}: write one number, or one a channel such as 0.485,0.456,0.406") from None


def _of_its_size(preprocess: Preprocess, name: str, wanted: GraphInput) -> Preprocess:
    """Resized to what the input takes; raises RecipeError where it does not say that."""
    channels, height, width = wanted.image_shape
    if height is None or width is None:
        raise RecipeError(
            f"input '{name}' takes {wanted.written}, which says no height and width for --mean and --std to resize "
            "images to: give --preprocess with resize in place of them"
        )
    if channels is not None and len(preprocess.mean) not in (1, channels):
        raise RecipeError(
            f"--mean and --std have {len(preprocess.mean)} values, and input '{name}' takes {channels} channels: "
            "give one number, or one a channel"
        )
    return preprocess.model_copy(update={"resize": (height, width)})


def preprocess_from_json(path: Path | None) -> Preprocess:
    """Of a workspace's preprocess.json, or the [data] preprocess table as JSON; raises RecipeError."""
    if path is None:
        raise RecipeError(
            "images need --mean and --std, or --preprocess: a JSON file with scale, mean, std and, where needed, "
            "resize, crop"
        )
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
