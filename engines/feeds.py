"""What a session is fed: why it refused a set of tensors, and random tensors where there are no real ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.base import Arrays, EngineError, TensorInfo


def wrong_feeds(inputs: Sequence[TensorInfo], feeds: Arrays) -> str | None:
    """What is wrong with the first wrong tensor, and what was expected; None where all fit."""
    names = [info.name for info in inputs]
    if missing := [name for name in names if name not in feeds]:
        return f"input {missing[0]!r} is missing; the engine takes {', '.join(names)}, it was given {_listed(feeds)}"
    if unknown := [name for name in feeds if name not in names]:
        return f"input {unknown[0]!r} is unknown; the engine takes {', '.join(names)}"
    return next((problem for info in inputs if (problem := _wrong_tensor(info, feeds[info.name]))), None)


def random_feeds(inputs: Sequence[TensorInfo], batch_size: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """One set of input tensors: standard normal where floating, any byte where uint8, else zeros (a valid index).

    A dynamic first dimension becomes the batch size; another dynamic dimension is refused.
    """
    random = np.random.default_rng(seed)
    return {info.name: _random_tensor(info, batch_size, random) for info in inputs}


def _wrong_tensor(info: TensorInfo, array: NDArray[np.generic]) -> str | None:
    expected = f"expected {info.dtype} {_written(info.shape)}"
    if str(array.dtype) != info.dtype:
        return f"input {info.name!r} is {array.dtype}; {expected}"
    fits = len(array.shape) == len(info.shape) and all(
        want in (-1, have) for want, have in zip(info.shape, array.shape, strict=True)
    )
    return None if fits else f"input {info.name!r} has shape {_written(array.shape)}; {expected}"


def _random_tensor(info: TensorInfo, batch_size: int, random: np.random.Generator) -> NDArray[np.generic]:
    if not info.shape or info.shape[0] not in (-1, batch_size) or -1 in info.shape[1:]:
        raise EngineError(
            f"input {info.name!r} has shape {_written(info.shape)}: no tensor of batch size {batch_size} follows "
            "from it; give real inputs, or fix the other dimensions when exporting"
        )
    shape = (batch_size, *info.shape[1:])
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    return np.zeros(shape, dtype)


def _written(shape: Sequence[int]) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"


def _listed(feeds: Arrays) -> str:
    return ", ".join(feeds) or "nothing"
