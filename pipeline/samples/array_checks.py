"""What arrays of samples and their splits must be; each check raises DataRejected with what to mend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.data.splits import SPLITS, SplitName
from pipeline.errors import DataRejected
from pipeline.models.interface import MASK
from pipeline.names import unknown
from pipeline.tasks.labels import texts

FED = ("float32", "int64", "int32", "uint8", "bool")
"""Types that are fed as they are."""


def check_images(images: NDArray[Any], where: str) -> None:
    """Numbers of (samples, height, width) or with channels."""
    if images.dtype.kind not in "uif":
        raise DataRejected(f"{where}: images have dtype {images.dtype}; expected integers or floats")
    if images.ndim not in (3, 4):
        raise DataRejected(
            f"{where}: images have shape {images.shape}; expected (samples, height, width) or with channels, 3 or 4 "
            "dimensions in all"
        )


def checked_inputs(
    arrays: Mapping[str, NDArray[Any]], axes: Mapping[str, tuple[str, ...]], where: str
) -> dict[str, NDArray[Any]]:
    """Arrays that are fed as they are, samples first, by input name in the order of `axes`."""
    counts = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in axes}
    first = next(iter(axes))
    sizes: dict[str, tuple[str, int]] = {}
    for name, named in axes.items():
        array = arrays[name]
        if array.ndim != 1 + len(named):
            raise DataRejected(
                f"{where}: '{name}' has shape {array.shape}, [data] inputs names {len(named)} axes after the samples "
                f"({', '.join(named) or 'none'}); name each axis but the first"
            )
        if counts[name] != counts[first]:
            raise DataRejected(
                f"{where}: '{first}' holds {counts[first]} samples, '{name}' {counts[name]}; give each sample both"
            )
        for axis, size in zip(named, array.shape[1:], strict=True):
            _check_axis(name, axis, size, sizes, where)
        _check_numbers(array, name, where)
    if MASK in axes:
        _check_mask(arrays[MASK], where)
    # Another byte order is read and not fed: torch takes the machine's own.
    return {name: arrays[name].astype(np.dtype(arrays[name].dtype.name), copy=False) for name in axes}


def _check_axis(name: str, axis: str, size: int, sizes: dict[str, tuple[str, int]], where: str) -> None:
    other, known = sizes.setdefault(axis, (name, size))
    if size != known:
        raise DataRejected(
            f"{where}: axis '{axis}' is {known} in '{other}' and {size} in '{name}'; "
            "make them equal, or give the axes different names"
        )
    if size == 0:
        raise DataRejected(f"{where}: axis '{axis}' of '{name}' is empty")


def _check_numbers(array: NDArray[Any], name: str, where: str) -> None:
    if array.dtype.name not in FED:
        hint = "; convert it with .astype('float32')" if array.dtype.kind == "f" else ""
        raise DataRejected(f"{where}: '{name}' has dtype {array.dtype}; expected {', '.join(FED)}{hint}")
    if array.dtype.kind == "f" and len(broken := _samples_where(~np.isfinite(array))):
        raise DataRejected(f"{where}: '{name}' of sample {broken[0]} holds NaN or infinite values")


def _check_mask(mask: NDArray[Any], where: str) -> None:
    if len(broken := _samples_where((mask != 0) & (mask != 1))):
        raise DataRejected(
            f"{where}: '{MASK}' of sample {broken[0]} holds other values than 0 and 1; "
            "write 1 where the sequence is real and 0 where it is padding"
        )
    if len(broken := np.flatnonzero(~mask.reshape(len(mask), -1).any(axis=1))):
        raise DataRejected(f"{where}: sample {broken[0]} is all padding ('{MASK}' is 0 everywhere); leave it out")


def _samples_where(found: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.flatnonzero(found.reshape(len(found), -1).any(axis=1)) if len(found) else np.zeros(0, np.int64)


def checked_splits(splits: NDArray[Any], samples: int, where: str) -> tuple[SplitName, ...]:
    """A split for each sample."""
    names = texts(splits, "splits", where)
    if len(splits) != samples:
        raise DataRejected(f"{where}: {samples} samples but {len(splits)} splits; each sample needs exactly one")
    for name in names:
        if name not in SPLITS:
            raise DataRejected(f"{where}: {unknown('split', name, SPLITS)}")
    return tuple(cast("SplitName", name) for name in names)
