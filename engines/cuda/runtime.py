"""libcudart through ctypes: what every Jetson and every CUDA installation has."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from engines.cuda.adapter import Cuda, require_contiguous
from engines.cuda.driver import LIBRARY, driver_version, loaded
from engines.cuda.driver_calls import DriverCalls
from engines.errors import EngineError, RuntimeMissing
from engines.packages import how_to_get_libcudart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")

# Values of driver_types.h.
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
_SPIN, _SLEEP = 0, 1  # cudaEventDefault, cudaEventBlockingSync
_PINNED = 0  # cudaHostAllocDefault

_POINTER, _ADDRESS = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
PROTOTYPES: Mapping[str, list[Any]] = {
    "cudaMalloc": [_ADDRESS, ctypes.c_size_t],
    "cudaFree": [_POINTER],
    "cudaHostAlloc": [_ADDRESS, ctypes.c_size_t, ctypes.c_uint],
    "cudaFreeHost": [_POINTER],
    "cudaStreamCreate": [_ADDRESS],
    "cudaStreamDestroy": [_POINTER],
    "cudaStreamSynchronize": [_POINTER],
    "cudaDeviceSynchronize": [],
    "cudaMemcpyAsync": [_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_int, _POINTER],
    "cudaEventCreateWithFlags": [_ADDRESS, ctypes.c_uint],
    "cudaEventDestroy": [_POINTER],
    "cudaEventRecord": [_POINTER, _POINTER],
    "cudaEventSynchronize": [_POINTER],
    "cudaEventElapsedTime": [ctypes.POINTER(ctypes.c_float), _POINTER, _POINTER],
    "cudaGetErrorName": [ctypes.c_int],
    "cudaGetErrorString": [ctypes.c_int],
}
"""The same in CUDA 11.4 to 13."""


@final
class CudaRuntime(Cuda):
    """In the primary context, which lives as long as the process and is the one that TensorRT uses."""

    def __init__(self, library: ctypes.CDLL, driver: str = LIBRARY) -> None:
        self._library = _with_prototypes(library)
        self._driver = DriverCalls(driver)

    def allocate(self, size_bytes: int) -> int:
        return self._made("cudaMalloc", f"allocating {size_bytes} bytes on the GPU", size_bytes)

    def free(self, pointer: int) -> None:
        self._check("cudaFree", "freeing GPU memory", pointer)

    def allocate_pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        import numpy as np

        what = f"allocating {size_bytes} bytes of page-locked memory"
        address = self._made("cudaHostAlloc", what, size_bytes, _PINNED)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        self._check("cudaFreeHost", "freeing page-locked memory", memory.ctypes.data)

    def create_stream(self) -> int:
        return self._made("cudaStreamCreate", "creating a CUDA stream")

    def destroy_stream(self, stream: int) -> None:
        self._check("cudaStreamDestroy", "destroying a CUDA stream", stream)

    def copy_to_device_async(self, pointer: int, source: NDArray[np.generic], stream: int) -> None:
        what = f"copying {source.nbytes} bytes to the GPU"
        require_contiguous(source, what)
        self._check("cudaMemcpyAsync", what, pointer, source.ctypes.data, source.nbytes, _HOST_TO_DEVICE, stream)

    def copy_to_host_async(self, destination: NDArray[np.generic], pointer: int, stream: int) -> None:
        what = f"copying {destination.nbytes} bytes from the GPU"
        require_contiguous(destination, what)
        to, size_bytes = destination.ctypes.data, destination.nbytes
        self._check("cudaMemcpyAsync", what, to, pointer, size_bytes, _DEVICE_TO_HOST, stream)

    def synchronize(self, stream: int) -> None:
        self._check("cudaStreamSynchronize", "waiting for the GPU", stream)

    def synchronize_device(self) -> None:
        self._check("cudaDeviceSynchronize", "waiting for the GPU")

    def create_event(self, spin_wait: bool = True) -> int:
        return self._made("cudaEventCreateWithFlags", "creating a CUDA event", _SPIN if spin_wait else _SLEEP)

    def destroy_event(self, event: int) -> None:
        self._check("cudaEventDestroy", "destroying a CUDA event", event)

    def record(self, event: int, stream: int) -> None:
        self._check("cudaEventRecord", "recording a CUDA event", event, stream)

    def wait(self, event: int) -> None:
        self._check("cudaEventSynchronize", "waiting for the GPU", event)

    def elapsed_ms(self, start: int, end: int) -> float:
        elapsed = ctypes.c_float(0)
        self._check("cudaEventElapsedTime", "timing the GPU", ctypes.byref(elapsed), start, end)
        return float(elapsed.value)

    def device_of(self, pointer: int) -> int | None:
        return self._driver.device_of(pointer)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        return self._driver.capture(stream, work)

    def launch(self, graph: int, stream: int) -> None:
        self._driver.launch(graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._driver.destroy_graph(graph)

    def close(self) -> None:
        """Nothing to let go of."""

    def _made(self, function: str, what: str, *arguments: object) -> int:
        """What the function writes through its first argument."""
        made = ctypes.c_void_p()
        self._check(function, what, ctypes.byref(made), *arguments)
        return made.value or 0

    def _check(self, function: str, what: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            name = self._library.cudaGetErrorName(code).decode()
            reason = self._library.cudaGetErrorString(code).decode()
            raise EngineError(f"{what} failed: {name} ({reason}, {function} returned {code})")


def load_runtime() -> ctypes.CDLL:
    """The first libcudart that loads; raises RuntimeMissing where there is none."""
    tried = []
    for name in (*LIBRARIES, *_packaged_runtimes()):
        library = loaded(name)
        if library is not None:
            return library
        tried.append(name)
    advice = how_to_get_libcudart(driver_version())
    raise RuntimeMissing(f"the CUDA runtime does not load (tried {', '.join(tried)}): {advice}")


def _packaged_runtimes() -> Iterator[str]:
    """libcudart inside NVIDIA's wheels: site-packages/nvidia/cu13/lib, nvidia/cuda_runtime/lib."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from (str(path) for path in sorted(Path(folder).glob("*/lib/libcudart.so*"), reverse=True))


def _with_prototypes(library: ctypes.CDLL) -> ctypes.CDLL:
    """Without them ctypes passes pointers as 32-bit integers."""
    for name, arguments in PROTOTYPES.items():
        # Indexing makes a new function object each time, getattr keeps one: the prototype must stay with it.
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_char_p if name.startswith("cudaGetError") else ctypes.c_int
    return library
