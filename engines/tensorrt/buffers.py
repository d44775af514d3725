"""Memory of a session's tensors: one buffer on the GPU and a page-locked one beside it, for each that is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from engines.cuda import Cuda


@final
class Buffers:
    """They grow to the largest tensor that was run, and never shrink."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._device: dict[str, tuple[int, int]] = {}  # name to pointer and size in bytes
        self._pinned: dict[str, NDArray[np.uint8]] = {}

    def device(self, name: str, size_bytes: int) -> int:
        """The tensor's buffer on the GPU, of at least so many bytes; what it held is lost where it grows."""
        pointer, have_bytes = self._device.get(name, (0, 0))
        if have_bytes < max(size_bytes, 1):
            if pointer:
                del self._device[name]
                self._cuda.free(pointer)
            pointer = self._cuda.allocate(max(size_bytes, 1))
            self._device[name] = (pointer, max(size_bytes, 1))
        return pointer

    def pinned(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """The tensor's page-locked buffer as an array; it is this object's and holds until the next call for it."""
        size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        memory = self._pinned.get(name)
        if memory is None or len(memory) < size_bytes:
            if memory is not None:
                self._cuda.free_pinned(self._pinned.pop(name))
            memory = self._pinned[name] = self._cuda.allocate_pinned(max(size_bytes, 1))
        return memory[:size_bytes].view(dtype).reshape(shape)

    def free(self) -> None:
        """All of them; the object can be used again."""
        device: Mapping[str, tuple[int, int]] = self._device
        pinned: Mapping[str, NDArray[np.uint8]] = self._pinned
        self._device, self._pinned = {}, {}
        for pointer, _ in device.values():
            self._cuda.free(pointer)
        for memory in pinned.values():
            self._cuda.free_pinned(memory)
