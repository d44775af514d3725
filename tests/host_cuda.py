"""A GPU whose memory is this process's. Copies and work happen when they are waited for, as late as they may."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
from numpy.typing import NDArray

from engines.cuda import Cuda
from engines.errors import EngineError

STREAM = 77
Work = Callable[[], None]


@final
class HostCuda(Cuda):
    """Each thing that is done on its stream takes half a millisecond of its clock."""

    def __init__(self) -> None:
        self.memory: dict[int, bytearray] = {}
        self.queue: list[Work] = []
        self.allocated = 0
        self.streams = 0
        self.closed = 0
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.events: dict[int, float | None] = {}
        self.spinning: set[int] = set()
        self.graphs: dict[int, list[Work]] = {}
        self.captured = 0
        self.waited_for_all = 0
        self.launched = 0
        self.now_ms = 0.0
        self.largest_bytes: int | None = None
        """What allocates more is out of memory."""
        self.fails_at_wait = ""

    def allocate(self, size_bytes: int) -> int:
        if self.largest_bytes is not None and size_bytes > self.largest_bytes:
            raise EngineError(f"allocating {size_bytes} bytes on the GPU failed: cudaErrorMemoryAllocation")
        self.allocated += 1
        self.memory[self.allocated << 40] = bytearray(size_bytes)
        return self.allocated << 40

    def free(self, pointer: int) -> None:
        del self.memory[pointer]

    def allocate_pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        memory = np.zeros(size_bytes, np.uint8)
        self.pinned[memory.ctypes.data] = memory
        return memory

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        del self.pinned[memory.ctypes.data]

    def create_stream(self) -> int:
        self.streams += 1
        return STREAM

    def destroy_stream(self, stream: int) -> None:
        assert stream == STREAM
        self.streams -= 1

    def copy_to_device_async(self, pointer: int, source: NDArray[np.generic], stream: int) -> None:
        assert source.flags.c_contiguous
        assert self._is_pinned(source)
        self.order(lambda: self._write(pointer, source.tobytes()), stream)

    def copy_to_host_async(self, destination: NDArray[np.generic], pointer: int, stream: int) -> None:
        assert self._is_pinned(destination)
        self.order(lambda: self._read(destination.view(np.uint8), pointer), stream)

    def order(self, work: Work, stream: int) -> None:
        """What a runtime does too."""
        assert stream == STREAM
        self.queue.append(work)

    def synchronize(self, stream: int) -> None:
        assert stream == STREAM
        if self.fails_at_wait:
            raise EngineError(f"waiting for the GPU failed: {self.fails_at_wait}")
        while self.queue:
            self.now_ms += 0.5
            self.queue.pop(0)()

    def synchronize_device(self) -> None:
        self.waited_for_all += 1
        self.synchronize(STREAM)

    def create_event(self, spin_wait: bool = True) -> int:
        event = len(self.events) + 1
        self.events[event] = None
        if spin_wait:
            self.spinning.add(event)
        return event

    def destroy_event(self, event: int) -> None:
        del self.events[event]

    def record(self, event: int, stream: int) -> None:
        def happens() -> None:
            self.now_ms -= 0.5  # an event takes no time
            self.events[event] = self.now_ms

        self.order(happens, stream)

    def wait(self, event: int) -> None:
        assert event in self.events
        self.synchronize(STREAM)

    def elapsed_ms(self, start: int, end: int) -> float:
        first, last = self.events[start], self.events[end]
        assert first is not None
        assert last is not None
        return last - first

    def device_of(self, pointer: int) -> int | None:
        return 0 if pointer in self.memory else 1 if pointer == 1 << 60 else None

    def capture(self, stream: int, work: Work) -> int:
        assert stream == STREAM
        before, self.queue = self.queue, []
        try:
            work()
            self.captured += 1
            self.graphs[self.captured] = self.queue
        finally:
            self.queue = before
        return self.captured

    def launch(self, graph: int, stream: int) -> None:
        self.launched += 1
        for work in self.graphs[graph]:
            self.order(work, stream)

    def destroy_graph(self, graph: int) -> None:
        del self.graphs[graph]

    def close(self) -> None:
        assert not self.memory
        assert not self.pinned
        assert not self.events
        assert not self.graphs
        self.closed += 1

    def _is_pinned(self, array: NDArray[np.generic]) -> bool:
        return array.nbytes == 0 or array.ctypes.data in self.pinned

    def _write(self, pointer: int, data: bytes) -> None:
        self.memory[pointer][: len(data)] = data

    def _read(self, destination: NDArray[np.uint8], pointer: int) -> None:
        flat = destination.reshape(-1)
        flat[:] = np.frombuffer(self.memory[pointer], np.uint8)[: flat.size]
