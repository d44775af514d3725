"""What a session is fed: why it refused a set of tensors, and random tensors where there are no real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engines.base import Arrays, TensorInfo
from engines.errors import EngineError

MASK = "mask"
"""An input of this name says what is real (1) and what is padding (0)."""


def wrong_feeds(inputs: Sequence[TensorInfo], feeds: Arrays) -> str | None:
    """What is wrong with the first wrong tensor, and what was expected; None where all fit."""
    names = [info.name for info in inputs]
    if missing := [name for name in names if name not in feeds]:
        return f"input {missing[0]!r} is missing; the engine takes {', '.join(names)}, it was given {_listed(feeds)}"
    if unknown := [name for name in feeds if name not in names]:
        return f"input {unknown[0]!r} is unknown; the engine takes {', '.join(names)}"
    return next((problem for info in inputs if (problem := _wrong_tensor(info, feeds[info.name]))), None)


def random_feeds(
    inputs: Sequence[TensorInfo], batch_size: int, seed: int, shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, NDArray[np.generic]]:
    """One set of input tensors: standard normal where floating, any byte where uint8, else zeros (a valid index).

    An input called `mask` says what is no padding: ones. A dynamic first dimension becomes the batch size; other
    dynamic ones take their sizes from `shapes`, which are of one sample, by input; without, they are refused.
    """
    random = np.random.default_rng(seed)
    return {info.name: _random_tensor(info, batch_size, (shapes or {}).get(info.name), random) for info in inputs}


def _wrong_tensor(info: TensorInfo, array: NDArray[np.generic]) -> str | None:
    expected = f"expected {info.dtype} {_written(info.shape)}"
    if str(array.dtype) != info.dtype:
        return f"input {info.name!r} is {array.dtype}; {expected}"
    return (
        None if _fits(info.shape, array.shape) else f"input {info.name!r} has shape {_written(array.shape)}; {expected}"
    )


def _random_tensor(
    info: TensorInfo, batch_size: int, sample: Sequence[int] | None, random: np.random.Generator
) -> NDArray[np.generic]:
    shape = (batch_size, *(info.shape[1:] if sample is None else sample))
    if -1 in shape or not _fits(info.shape, shape):
        samples = "" if sample is None else f" and samples of {_written(sample)}"
        raise EngineError(
            f"input {info.name!r} has shape {_written(info.shape)}: no tensor of batch size {batch_size}{samples} "
            "follows from it; give real inputs or the shape of a sample, or fix the other dimensions when exporting"
        )
    dtype = np.dtype(info.dtype)
    if info.name == MASK:
        return np.ones(shape, dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    return np.zeros(shape, dtype)


def _fits(wanted: Sequence[int], found: Sequence[int]) -> bool:
    return len(wanted) == len(found) and all(want in (-1, have) for want, have in zip(wanted, found, strict=True))


def _written(shape: Sequence[int]) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"


def _listed(feeds: Arrays) -> str:
    return ", ".join(feeds) or "nothing"
