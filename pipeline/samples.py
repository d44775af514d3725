"""Where raw images and labels come from: built-in digits, a .npz, a folder of images a class, a user's factory."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected, MachineLacks, RecipeError
from pipeline.userfile import call_factory

SplitName = Literal["train", "validation", "calibration", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Samples(ABC):
    """Raw images and labels by index."""

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    splits: tuple[SplitName, ...] | None = None
    """Where the user has split the data already: one name a sample."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def raw(self, index: int) -> NDArray[Any]:
        """One raw image; raises DataRejected where it cannot be read."""

    @abstractmethod
    def id(self, index: int) -> str:
        """What the user knows the sample by."""


class ArraySamples(Samples):
    """Images that fit into memory: shape (samples, height, width[, channels])."""

    def __init__(
        self,
        images: NDArray[Any],
        labels: NDArray[Any],
        where: str,
        classes: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> None:
        _check_images(images, where)
        self._images = images
        self.labels = _checked_labels(labels, len(images), where)
        self.classes = tuple(classes or (str(label) for label in range(int(self.labels.max(initial=0)) + 1)))
        self.splits = None if splits is None else _checked_splits(splits, len(images), where)

    def raw(self, index: int) -> NDArray[Any]:
        image: NDArray[Any] = self._images[index]
        return image

    def id(self, index: int) -> str:
        return str(index)


class ImageFolder(Samples):
    """`folder/<class>/<image>`, or `folder/<split>/<class>/<image>` where the four split folders are there.

    Images are decoded when asked for, so memory does not depend on their number.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        is_split = set(_folders_in(folder)) == set(SPLITS)
        parents = [Path(name) for name in SPLITS] if is_split else [Path()]
        classes = sorted({name for parent in parents for name in _folders_in(folder / parent)})
        self._files = [file for parent in parents for name in classes for file in image_files(folder / parent / name)]
        if not self._files:
            raise DataRejected(f"{folder}: no images; expected <class>/<image> with {', '.join(IMAGE_SUFFIXES)}")
        self.classes = tuple(classes)
        parts = [file.relative_to(folder).parts for file in self._files]
        self.labels = np.asarray([classes.index(part[1 if is_split else 0]) for part in parts], np.int64)
        self.splits = _checked_splits([part[0] for part in parts], len(parts), str(folder)) if is_split else None

    def raw(self, index: int) -> NDArray[Any]:
        return read_image(self._files[index])

    def id(self, index: int) -> str:
        return self._files[index].relative_to(self._folder).as_posix()


def read_image(file: Path) -> NDArray[Any]:
    """Gray images as (height, width), all others as RGB (height, width, 3); raises DataRejected where it is corrupt."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataRejected(f"{file}: cannot be decoded ({error}); remove or replace it") from error


def image_files(folder: Path) -> list[Path]:
    """Every image below a folder, sorted."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES)


def digits_file() -> Path:
    """scikit-learn's digits as its wheel packs them; found without importing it, which takes a second."""
    specification = importlib.util.find_spec("sklearn")
    folders = specification.submodule_search_locations if specification else None
    file = Path(next(iter(folders))) / "datasets" / "data" / "digits.csv.gz" if folders else None
    if file is None or not file.is_file():
        raise MachineLacks("the data source 'digits' reads scikit-learn's images: pip install 'edgestill[demo]'")
    return file


def digits() -> Samples:
    """1,797 images of handwritten digits, 8x8, values 0 to 16."""
    with gzip.open(digits_file(), "rt", encoding="ascii") as file:
        rows = np.asarray([[float(value) for value in row] for row in csv.reader(file)], np.float32)
    return ArraySamples(rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64), "digits")


def npz(file: Path) -> Samples:
    """Arrays `images` and `labels` of a .npz, and where they are there `classes` and `splits`; never unpickles."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            if missing := {"images", "labels"} - set(arrays.files):
                raise DataRejected(
                    f"{file}: has no array '{min(missing)}' (found {', '.join(arrays.files) or 'none'}); "
                    "save it with numpy.savez(file, images=..., labels=...)"
                )
            names, splits = (
                [str(name) for name in arrays[key]] if key in arrays.files else None for key in ("classes", "splits")
            )
            return ArraySamples(arrays["images"], arrays["labels"], str(file), names, splits)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataRejected(f"{file}: is not a readable .npz of plain arrays ({error})") from error


def from_factory(specification: str, recipe_folder: Path) -> Samples:
    """A user's `data.py:make_dataset()`: it returns (images, labels[, class names[, splits]])."""
    made = call_factory(specification, recipe_folder, "[data] factory")
    if not isinstance(made, tuple) or len(made) not in (2, 3, 4):
        raise RecipeError(
            f"[data] factory {specification} returned {type(made).__name__}; "
            "return (images, labels), (images, labels, class_names) or (images, labels, class_names, splits)"
        )
    images, labels, *more = made
    classes, splits = [*more, None, None][:2]
    return ArraySamples(np.asarray(images), np.asarray(labels), specification, classes, splits)


def _folders_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _check_images(images: NDArray[Any], where: str) -> None:
    if images.dtype.kind not in "uif":
        raise DataRejected(f"{where}: images have dtype {images.dtype}; expected integers or floats")
    if images.ndim not in (3, 4):
        raise DataRejected(
            f"{where}: images have shape {images.shape}; expected (samples, height, width) or with channels, 3 or 4 "
            "dimensions in all"
        )


def _checked_labels(labels: NDArray[Any], samples: int, where: str) -> NDArray[np.int64]:
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DataRejected(f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; expected 1-d integers")
    if len(labels) != samples:
        raise DataRejected(f"{where}: {samples} images but {len(labels)} labels; each image needs exactly one")
    return labels.astype(np.int64)


def _checked_splits(splits: Sequence[str], samples: int, where: str) -> tuple[SplitName, ...]:
    if len(splits) != samples:
        raise DataRejected(f"{where}: {samples} images but {len(splits)} splits; each image needs exactly one")
    for name in splits:
        if name not in SPLITS:
            raise DataRejected(f"{where}: '{name}' is no split; the splits are {', '.join(SPLITS)}")
    return tuple(cast("SplitName", name) for name in splits)
