"""pycuda's driver API, where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from engines.cuda.adapter import Cuda, require_contiguous
from engines.cuda.driver import LIBRARY
from engines.cuda.driver_calls import DriverCalls
from engines.errors import EngineError, RuntimeMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SPIN, _SLEEP = 0, 1  # pycuda.driver.event_flags.DEFAULT, BLOCKING_SYNC


@final
class PyCuda(Cuda):
    """In the primary context, which is the one that TensorRT uses. pycuda's objects stay here, under their integers."""

    def __init__(self, driver: str = LIBRARY) -> None:
        self._pycuda = importlib.import_module("pycuda.driver")
        self._driver = DriverCalls(driver)
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._events_made = 0
        try:
            self._pycuda.init()
            self._context = self._pycuda.Device(0).retain_primary_context()
            self._context.push()
        except self._pycuda.Error as error:
            raise RuntimeMissing(f"pycuda cannot open GPU 0: {error}; check nvidia-smi") from error

    def allocate(self, size_bytes: int) -> int:
        allocation = self._checked(f"allocating {size_bytes} bytes on the GPU", self._pycuda.mem_alloc, size_bytes)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: int) -> None:
        self._checked("freeing GPU memory", self._allocations.pop(pointer).free)

    def allocate_pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        what = f"allocating {size_bytes} bytes of page-locked memory"
        memory: NDArray[np.uint8] = self._checked(what, self._pycuda.pagelocked_empty, size_bytes, "uint8")
        return memory

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        allocation: Any = memory.base
        self._checked("freeing page-locked memory", allocation.free)

    def create_stream(self) -> int:
        stream = self._checked("creating a CUDA stream", self._pycuda.Stream)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]  # pycuda destroys it with its last reference

    def copy_to_device_async(self, pointer: int, source: NDArray[np.generic], stream: int) -> None:
        what = f"copying {source.nbytes} bytes to the GPU"
        require_contiguous(source, what)
        self._checked(what, self._pycuda.memcpy_htod_async, pointer, source, self._streams[stream])

    def copy_to_host_async(self, destination: NDArray[np.generic], pointer: int, stream: int) -> None:
        what = f"copying {destination.nbytes} bytes from the GPU"
        require_contiguous(destination, what)
        self._checked(what, self._pycuda.memcpy_dtoh_async, destination, pointer, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        self._checked("waiting for the GPU", self._streams[stream].synchronize)

    def synchronize_device(self) -> None:
        self._checked("waiting for the GPU", self._pycuda.Context.synchronize)

    def create_event(self, spin_wait: bool = True) -> int:
        event = self._checked("creating a CUDA event", self._pycuda.Event, _SPIN if spin_wait else _SLEEP)
        self._events_made += 1
        self._events[self._events_made] = event
        return self._events_made

    def destroy_event(self, event: int) -> None:
        del self._events[event]  # pycuda destroys it with its last reference

    def record(self, event: int, stream: int) -> None:
        self._checked("recording a CUDA event", self._events[event].record, self._streams[stream])

    def wait(self, event: int) -> None:
        self._checked("waiting for the GPU", self._events[event].synchronize)

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(self._checked("timing the GPU", self._events[start].time_till, self._events[end]))

    def device_of(self, pointer: int) -> int | None:
        return self._driver.device_of(pointer)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        return self._driver.capture(stream, work)

    def launch(self, graph: int, stream: int) -> None:
        self._driver.launch(graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._driver.destroy_graph(graph)

    def close(self) -> None:
        self._context.pop()
        self._context.detach()

    def _checked(self, what: str, function: Any, *arguments: object) -> Any:
        try:
            return function(*arguments)
        except self._pycuda.Error as error:
            # pycuda's own text names the driver's function and the error.
            raise EngineError(f"{what} failed: {type(error).__name__} ({error})") from error
