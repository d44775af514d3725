"""What arrays of images, labels, class names and splits must be; each check raises DataRejected with what to mend."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.names import unknown
from pipeline.splits import SPLITS, SplitName


def check_images(images: NDArray[Any], where: str) -> None:
    """Numbers of (samples, height, width) or with channels."""
    if images.dtype.kind not in "uif":
        raise DataRejected(f"{where}: images have dtype {images.dtype}; expected integers or floats")
    if images.ndim not in (3, 4):
        raise DataRejected(
            f"{where}: images have shape {images.shape}; expected (samples, height, width) or with channels, 3 or 4 "
            "dimensions in all"
        )


def checked_labels(
    labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The labels, and the classes that they count: those that are named, or 0 to the largest label."""
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DataRejected(f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; expected 1-d integers")
    if len(labels) != samples:
        raise DataRejected(f"{where}: {samples} images but {len(labels)} labels; each image needs exactly one")
    classes = None if names is None else _class_names(names, where)
    # Without names, a label beyond the number of images is no count of classes: 255 for "none", or an id.
    limit = samples if classes is None else len(classes)
    if len(outside := np.flatnonzero((labels < 0) | (labels >= limit))):
        hint = "number the classes from 0, or name them" if classes is None else "name each class"
        raise DataRejected(
            f"{where}: image {outside[0]} has label {labels[outside[0]]}; labels go from 0 to {limit - 1} here; {hint}"
        )
    known = classes or tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
    return labels.astype(np.int64), known


def _class_names(names: NDArray[Any], where: str) -> tuple[str, ...]:
    classes = _texts(names, "classes", where)
    if not classes:
        raise DataRejected(f"{where}: classes are empty; name each class, or leave classes out")
    if len(set(classes)) != len(classes):
        raise DataRejected(f"{where}: classes hold {max(classes, key=classes.count)!r} twice; each needs its own name")
    return classes


def _texts(array: NDArray[Any], name: str, where: str) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind not in "USui":
        raise DataRejected(f"{where}: {name} have shape {array.shape} and dtype {array.dtype}; expected 1-d strings")
    return tuple(array.astype(str).tolist())


def checked_splits(splits: NDArray[Any], samples: int, where: str) -> tuple[SplitName, ...]:
    """A split for each sample."""
    names = _texts(splits, "splits", where)
    if len(splits) != samples:
        raise DataRejected(f"{where}: {samples} images but {len(splits)} splits; each image needs exactly one")
    for name in names:
        if name not in SPLITS:
            raise DataRejected(f"{where}: {unknown('split', name, SPLITS)}")
    return tuple(cast("SplitName", name) for name in names)
