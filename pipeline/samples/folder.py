"""Images in folders, one a class, and how one image file is read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.splits import SPLITS
from pipeline.errors import DataRejected
from pipeline.samples.array_checks import checked_splits
from pipeline.samples.base import Samples

_GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_OTHER_SPLITS = {"val", "valid", "validation", "calibration", "test"}
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@final
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
