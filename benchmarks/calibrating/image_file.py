"""Images on disk, read a batch at a time: what a process holds then does not grow with their number.

Imports numpy alone: it runs in the peers' environment too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_images(images: NDArray[Any], path: Path) -> None:
    """As .npy; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.npy")
    np.save(partial, images, allow_pickle=False)
    partial.replace(path)


def read_batches(path: Path, count: int, batch_size: int) -> Iterator[NDArray[np.float32]]:
    """The first `count` images; not mapped into memory, where every page that was read would count."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if count > shape[0]:
            raise ValueError(f"{path}: holds {shape[0]} images, {count} are asked for")
        one = int(np.prod(shape[1:]))
        for start in range(0, count, batch_size):
            size = min(batch_size, count - start)
            yield np.fromfile(file, dtype, size * one).reshape(size, *shape[1:])
