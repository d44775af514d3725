"""Where raw images and labels come from: built-in digits, a .npz, a folder of images a class, a user's factory."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected, MachineLacks, RecipeError
from pipeline.sample_checks import check_images, checked_labels, checked_splits
from pipeline.splits import SPLITS, SplitName
from pipeline.userfile import call_factory

_ARRAYS = ("images", "labels", "classes", "splits")
_GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_OTHER_SPLITS = {"val", "valid", "validation", "calibration", "test"}
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Samples(ABC):
    """Raw images and labels by index; every label is a class."""

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    splits: tuple[SplitName, ...] | None = None
    """Where the user has split the data already: one name a sample."""
    left_out: tuple[str, ...] = ()
    """Files beside the images that were not taken for any."""

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
        classes: NDArray[Any] | None = None,
        splits: NDArray[Any] | None = None,
    ) -> None:
        check_images(images, where)
        self._images = images
        self.labels, self.classes = checked_labels(labels, classes, len(images), where)
        self.splits = None if splits is None else checked_splits(splits, len(images), where)

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
        is_split = _is_split(folder)
        parents = [Path(name) for name in SPLITS] if is_split else [Path()]
        classes = sorted({name for parent in parents for name in _folders_in(folder / parent)})
        self._files = [file for parent in parents for name in classes for file in image_files(folder / parent / name)]
        if not self._files:
            raise DataRejected(f"{folder}: no images; expected <class>/<image> with {', '.join(IMAGE_SUFFIXES)}")
        self.classes = tuple(classes)
        parts = [file.relative_to(folder).parts for file in self._files]
        self.labels = np.asarray([classes.index(part[1 if is_split else 0]) for part in parts], np.int64)
        self.splits = (
            checked_splits(np.asarray([part[0] for part in parts]), len(parts), str(folder)) if is_split else None
        )
        self.left_out = _files_beside(self._files, folder)

    def raw(self, index: int) -> NDArray[Any]:
        return read_image(self._files[index])

    def id(self, index: int) -> str:
        return self._files[index].relative_to(self._folder).as_posix()


def read_image(file: Path) -> NDArray[Any]:
    """Gray images as (height, width), all others as RGB (height, width, 3), both without alpha.

    Raises DataRejected where it is corrupt.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode in ("1", "LA", "La"):
                return np.asarray(image.convert("L"))
            # Gray of more than 8 bits would be cut off at 255 on its way to RGB.
            return np.asarray(image if image.mode in ("L", "I", "F", *_GRAY_16) else image.convert("RGB"))
    except (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
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
    if not zipfile.is_zipfile(file):
        raise DataRejected(f"{file}: is no .npz; save it with numpy.savez(file, images=..., labels=...)")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _ARRAYS if name in archive.files}
            names = ", ".join(archive.files) or "none"
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataRejected(f"{file}: is not a readable .npz of plain arrays ({error}); save it again") from error
    if missing := {"images", "labels"} - set(arrays):
        raise DataRejected(
            f"{file}: has no array '{min(missing)}' (found {names}); "
            "save it with numpy.savez(file, images=..., labels=...)"
        )
    return ArraySamples(arrays["images"], arrays["labels"], str(file), arrays.get("classes"), arrays.get("splits"))


def from_factory(specification: str, recipe_folder: Path) -> Samples:
    """A user's `data.py:make_dataset()`: it returns (images, labels[, class names[, splits]])."""
    made = call_factory(specification, recipe_folder, "[data] factory")
    if not isinstance(made, tuple) or len(made) not in (2, 3, 4):
        raise RecipeError(
            f"[data] factory {specification} returned {type(made).__name__}; "
            "return (images, labels), (images, labels, class_names) or (images, labels, class_names, splits)"
        )
    arrays = [
        None if part is None else _array(part, name, specification) for name, part in zip(_ARRAYS, made, strict=False)
    ]
    images, labels, classes, splits = [*arrays, None, None][:4]
    if images is None or labels is None:
        raise RecipeError(f"[data] factory {specification} returned None for images or labels; return arrays")
    return ArraySamples(images, labels, specification, classes, splits)


def _array(part: Any, name: str, where: str) -> NDArray[Any]:
    try:
        return np.asarray(part)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors of another device
        raise DataRejected(
            f"{where}: {name} are no array ({error}); give all the same shape, in host memory"
        ) from error


def _folders_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_split(folder: Path) -> bool:
    """Whether the first level is the splits; raises DataRejected where it is only some of them."""
    names = set(_folders_in(folder))
    if "train" in names and names & _OTHER_SPLITS and names != set(SPLITS):
        raise DataRejected(
            f"{folder}: holds the folders {', '.join(sorted(names))}; "
            f"give exactly {', '.join(SPLITS)}, or a folder for each class and no splits"
        )
    return names == set(SPLITS)


def _files_beside(images: Sequence[Path], folder: Path) -> tuple[str, ...]:
    taken = set(images)
    files = (file for file in folder.rglob("*") if not file.is_dir() and not file.name.startswith("."))
    return tuple(sorted(file.relative_to(folder).as_posix() for file in files if file not in taken))
