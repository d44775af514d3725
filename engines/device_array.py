"""Arrays that lie on the GPU already: anything with `__cuda_array_interface__`, such as a tensor of torch's or CuPy's.

https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.errors import EngineError

_LEGACY_DEFAULT_STREAM = 1


@dataclass(frozen=True)
class DeviceArray:
    """C-contiguous memory of a GPU that belongs to someone else."""

    pointer: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    busy: bool
    """Work that fills it may be under way on a stream that a session's does not wait for by itself."""


def device_array(name: str, feed: Any) -> DeviceArray | None:
    """What an input's value is where it lies on a GPU; None where it does not. Raises EngineError for gaps in it."""
    try:
        found = feed.__cuda_array_interface__
    except AttributeError:
        return None
    except Exception as error:  # torch refuses some tensors with a RuntimeError
        raise EngineError(f"input {name!r} cannot be taken from the GPU: {error}") from error
    dtype, shape = np.dtype(found["typestr"]), tuple(int(size) for size in found["shape"])
    if not _contiguous(found.get("strides"), shape, dtype.itemsize):
        raise EngineError(f"input {name!r} has gaps in its memory on the GPU; pass it contiguous")
    stream = found.get("stream")
    return DeviceArray(int(found["data"][0] or 0), dtype, shape, stream not in (None, _LEGACY_DEFAULT_STREAM))


def _contiguous(strides: tuple[int, ...] | None, shape: tuple[int, ...], itemsize: int) -> bool:
    if strides is None:
        return True
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
