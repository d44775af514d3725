"""What labels and the names of their classes must be; each check raises DataRejected with what to mend."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected


def checked_labels(
    labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """One class a sample: the labels, and the classes that they count, those named or 0 to the largest label."""
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DataRejected(f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; expected 1-d integers")
    if len(labels) != samples:
        raise DataRejected(f"{where}: {samples} samples but {len(labels)} labels; each sample needs exactly one")
    classes = None if names is None else class_names(names, where)
    # Without names, a label beyond the number of samples is no count of classes: 255 for "none", or an id.
    limit = samples if classes is None else len(classes)
    if len(outside := np.flatnonzero((labels < 0) | (labels >= limit))):
        hint = "number the classes from 0, or name them" if classes is None else "name each class"
        raise DataRejected(
            f"{where}: sample {outside[0]} has label {labels[outside[0]]}; labels go from 0 to {limit - 1} here; {hint}"
        )
    known = classes or tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
    return labels.astype(np.int64), known


def class_names(names: NDArray[Any], where: str) -> tuple[str, ...]:
    """Distinct names, at least one."""
    classes = texts(names, "classes", where)
    if not classes:
        raise DataRejected(f"{where}: classes are empty; name each class, or leave classes out")
    if len(set(classes)) != len(classes):
        raise DataRejected(f"{where}: classes hold {max(classes, key=classes.count)!r} twice; each needs its own name")
    return classes


def texts(array: NDArray[Any], name: str, where: str) -> tuple[str, ...]:
    """The strings of a 1-d array, whole numbers as text."""
    if array.ndim != 1 or array.dtype.kind not in "USui":
        raise DataRejected(f"{where}: {name} have shape {array.shape} and dtype {array.dtype}; expected 1-d strings")
    return tuple(array.astype(str).tolist())
