"""What a session needs of CUDA, whichever library it comes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from engines.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Cuda(ABC):
    """GPU 0. Pointers, streams, events and graphs are integers, pointers and streams as TensorRT takes them.

    What is ordered on a stream may return before it is done: keep its arrays alive until `synchronize` or `wait`.
    Each call raises EngineError with CUDA's name of the error. Not thread-safe: one thread, one adapter.
    """

    @abstractmethod
    def allocate(self, size_bytes: int) -> int:
        """Device memory; the caller frees it."""

    @abstractmethod
    def free(self, pointer: int) -> None: ...

    @abstractmethod
    def allocate_pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory, which the GPU copies from and to without a detour; the caller frees it."""

    @abstractmethod
    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Of the array that `allocate_pinned` returned; no view of it may be touched afterwards."""

    @abstractmethod
    def create_stream(self) -> int:
        """It waits for what is already on the default stream, where torch works unless told otherwise."""

    @abstractmethod
    def destroy_stream(self, stream: int) -> None: ...

    @abstractmethod
    def copy_to_device_async(self, pointer: int, source: NDArray[np.generic], stream: int) -> None:
        """From a C-contiguous array."""

    @abstractmethod
    def copy_to_host_async(self, destination: NDArray[np.generic], pointer: int, stream: int) -> None:
        """Into a C-contiguous array."""

    @abstractmethod
    def synchronize(self, stream: int) -> None:
        """Blocks until everything on the stream is done; errors of the work itself surface here."""

    @abstractmethod
    def synchronize_device(self) -> None:
        """Blocks until everything on the GPU is done, whoever asked for it."""

    @abstractmethod
    def create_event(self, spin_wait: bool = True) -> int:
        """`spin_wait`: `wait` keeps a CPU core busy, and so notices the end sooner; else the thread sleeps."""

    @abstractmethod
    def destroy_event(self, event: int) -> None: ...

    @abstractmethod
    def record(self, event: int, stream: int) -> None:
        """The event happens when all that is on the stream by now is done."""

    @abstractmethod
    def wait(self, event: int) -> None:
        """Blocks until the event has happened; errors of the work before it surface here."""

    @abstractmethod
    def elapsed_ms(self, start: int, end: int) -> float:
        """Between two events that have happened, by the GPU's clock (half a microsecond)."""

    @abstractmethod
    def device_of(self, pointer: int) -> int | None:
        """The GPU whose memory it is; None where it is host memory."""

    @abstractmethod
    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """A graph of what `work` orders on the stream, none of which runs; what `work` raises comes out as it is."""

    @abstractmethod
    def launch(self, graph: int, stream: int) -> None:
        """Orders all of a graph on the stream, with the addresses that it was captured with."""

    @abstractmethod
    def destroy_graph(self, graph: int) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Lets go of the GPU; what was allocated must be freed before."""


def require_contiguous(array: NDArray[np.generic], what: str) -> None:
    """A copy by address would take what lies in the gaps too."""
    if not array.flags.c_contiguous:
        raise EngineError(f"{what} failed: the array is not C-contiguous; pass numpy.ascontiguousarray of it")
