"""Device memory and streams, through pycuda or through libcudart; and what the NVIDIA driver says of this machine."""

from __future__ import annotations

import ctypes
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from engines.base import EngineError, RuntimeMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRIVER_LIBRARY = "libcuda.so.1"
RUNTIME_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")

# Values of the driver's and the runtime's public headers, cuda.h and driver_types.h.
_CU_MAJOR, _CU_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind


class Cuda(ABC):
    """Memory and streams of GPU 0. Pointers and streams are integers, as TensorRT takes them.

    A copy is ordered on its stream and may return before it is done: keep the array alive until `synchronize`.
    Each call raises EngineError with CUDA's name of the error.
    """

    @abstractmethod
    def allocate(self, size_bytes: int) -> int: ...

    @abstractmethod
    def free(self, pointer: int) -> None: ...

    @abstractmethod
    def create_stream(self) -> int: ...

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
    def close(self) -> None:
        """Lets go of the GPU; what was allocated must be freed before."""


def open_cuda() -> Cuda:
    """pycuda where it is installed, else libcudart; raises RuntimeMissing without either."""
    if importlib.util.find_spec("pycuda") is not None:
        return PyCuda()
    return CudaRuntime(_load_runtime())


def gpu_count(library: str = DRIVER_LIBRARY) -> int:
    """GPUs that the driver lets this process see; 0 without a driver."""
    count = ctypes.c_int(0)
    driver = _started_driver(library)
    return count.value if driver and _ask(driver, "cuDeviceGetCount", ctypes.byref(count)) else 0


def driver_version(library: str = DRIVER_LIBRARY) -> str | None:
    """The newest CUDA that the driver serves, such as `12.6`; None without a driver."""
    version = ctypes.c_int(0)
    driver = _load(library)
    if driver is None or not _ask(driver, "cuDriverGetVersion", ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def compute_capability(library: str = DRIVER_LIBRARY) -> str | None:
    """Of GPU 0, such as `8.6`; None without a GPU."""
    driver, device = _started_driver(library), ctypes.c_int(0)
    if driver is None or not _ask(driver, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(0)):
        return None
    numbers = [ctypes.c_int(0), ctypes.c_int(0)]
    for number, attribute in zip(numbers, (_CU_MAJOR, _CU_MINOR), strict=True):
        if not _ask(driver, "cuDeviceGetAttribute", ctypes.byref(number), ctypes.c_int(attribute), device):
            return None
    return f"{numbers[0].value}.{numbers[1].value}"


def why_no_gpu(library: str = DRIVER_LIBRARY) -> str | None:
    """None where this process sees a GPU; else what is missing and what to do."""
    if _load(library) is None:
        return f"there is no NVIDIA driver here ({library} does not load): install it, or use a machine that has one"
    if gpu_count(library) == 0:
        return "the NVIDIA driver shows no GPU to this process: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None


def why_no_adapter() -> str | None:
    """None where `open_cuda` finds pycuda or libcudart; else how to get one."""
    if importlib.util.find_spec("pycuda") is not None:
        return None
    try:
        _load_runtime()
    except RuntimeMissing as error:
        return str(error)
    return None


@final
class CudaRuntime(Cuda):
    """libcudart through ctypes: what every Jetson and every CUDA installation has."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = _with_prototypes(library)

    def allocate(self, size_bytes: int) -> int:
        pointer = ctypes.c_void_p()
        self._check("cudaMalloc", f"allocating {size_bytes} bytes on the GPU", ctypes.byref(pointer), size_bytes)
        return pointer.value or 0

    def free(self, pointer: int) -> None:
        self._check("cudaFree", "freeing GPU memory", pointer)

    def create_stream(self) -> int:
        stream = ctypes.c_void_p()
        self._check("cudaStreamCreate", "creating a CUDA stream", ctypes.byref(stream))
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        self._check("cudaStreamDestroy", "destroying a CUDA stream", stream)

    def copy_to_device_async(self, pointer: int, source: NDArray[np.generic], stream: int) -> None:
        what = f"copying {source.nbytes} bytes to the GPU"
        host = _host_address(source, what)
        self._check("cudaMemcpyAsync", what, pointer, host, source.nbytes, _HOST_TO_DEVICE, stream)

    def copy_to_host_async(self, destination: NDArray[np.generic], pointer: int, stream: int) -> None:
        what = f"copying {destination.nbytes} bytes from the GPU"
        host = _host_address(destination, what)
        self._check("cudaMemcpyAsync", what, host, pointer, destination.nbytes, _DEVICE_TO_HOST, stream)

    def synchronize(self, stream: int) -> None:
        self._check("cudaStreamSynchronize", "waiting for the GPU", stream)

    def close(self) -> None:
        """Nothing to let go of: the primary context lives as long as the process."""

    def _check(self, function: str, what: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            name = self._library.cudaGetErrorName(code).decode()
            reason = self._library.cudaGetErrorString(code).decode()
            raise EngineError(f"{what} failed: {name} ({reason}, {function} returned {code})")


@final
class PyCuda(Cuda):
    """pycuda's driver API, in the primary context, which is the one that TensorRT uses."""

    def __init__(self) -> None:
        self._driver = importlib.import_module("pycuda.driver")
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        try:
            self._driver.init()
            self._context = self._driver.Device(0).retain_primary_context()
            self._context.push()
        except self._driver.Error as error:
            raise RuntimeMissing(f"pycuda cannot open GPU 0: {error}; check nvidia-smi") from error

    def allocate(self, size_bytes: int) -> int:
        allocation = self._checked(f"allocating {size_bytes} bytes on the GPU", self._driver.mem_alloc, size_bytes)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: int) -> None:
        self._checked("freeing GPU memory", self._allocations.pop(pointer).free)

    def create_stream(self) -> int:
        stream = self._checked("creating a CUDA stream", self._driver.Stream)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]  # pycuda destroys it with its last reference

    def copy_to_device_async(self, pointer: int, source: NDArray[np.generic], stream: int) -> None:
        what = f"copying {source.nbytes} bytes to the GPU"
        self._checked(what, self._driver.memcpy_htod_async, pointer, source, self._streams[stream])

    def copy_to_host_async(self, destination: NDArray[np.generic], pointer: int, stream: int) -> None:
        what = f"copying {destination.nbytes} bytes from the GPU"
        self._checked(what, self._driver.memcpy_dtoh_async, destination, pointer, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        self._checked("waiting for the GPU", self._streams[stream].synchronize)

    def close(self) -> None:
        self._context.pop()
        self._context.detach()

    def _checked(self, what: str, function: Any, *arguments: object) -> Any:
        try:
            return function(*arguments)
        except self._driver.Error as error:
            # pycuda's own text names the driver's function and the error.
            raise EngineError(f"{what} failed: {type(error).__name__} ({error})") from error


def _load(library: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


def _started_driver(library: str) -> ctypes.CDLL | None:
    driver = _load(library)
    return driver if driver is not None and _ask(driver, "cuInit", ctypes.c_uint(0)) else None


def _ask(driver: ctypes.CDLL, function: str, *arguments: object) -> bool:
    """Whether a function of the driver exists and succeeds."""
    try:
        return bool(driver[function](*arguments) == 0)
    except AttributeError:
        return False


def _load_runtime() -> ctypes.CDLL:
    tried = []
    for name in (*RUNTIME_LIBRARIES, *_packaged_runtimes()):
        library = _load(name)
        if library is not None:
            return library
        tried.append(name)
    raise RuntimeMissing(
        f"the CUDA runtime does not load (tried {', '.join(tried)}): install the CUDA toolkit, "
        "or pip install nvidia-cuda-runtime, or pip install pycuda"
    )


def _packaged_runtimes() -> Iterator[str]:
    """libcudart inside NVIDIA's wheels: site-packages/nvidia/cu13/lib, nvidia/cuda_runtime/lib."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from (str(path) for path in sorted(Path(folder).glob("*/lib/libcudart.so*"), reverse=True))


def _with_prototypes(library: ctypes.CDLL) -> ctypes.CDLL:
    """Without them ctypes passes pointers as 32-bit integers."""
    pointer, pointer_to_pointer = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
    signatures: dict[str, list[Any]] = {
        "cudaMalloc": [pointer_to_pointer, ctypes.c_size_t],
        "cudaFree": [pointer],
        "cudaStreamCreate": [pointer_to_pointer],
        "cudaStreamDestroy": [pointer],
        "cudaStreamSynchronize": [pointer],
        "cudaMemcpyAsync": [pointer, pointer, ctypes.c_size_t, ctypes.c_int, pointer],
        "cudaGetErrorName": [ctypes.c_int],
        "cudaGetErrorString": [ctypes.c_int],
    }
    for name, arguments in signatures.items():
        # Indexing makes a new function object each time, getattr keeps one: the prototype must stay with it.
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_char_p if name.startswith("cudaGetError") else ctypes.c_int
    return library


def _host_address(array: NDArray[np.generic], what: str) -> int:
    if not array.flags.c_contiguous:
        raise EngineError(f"{what} failed: the array is not C-contiguous; pass numpy.ascontiguousarray of it")
    return array.ctypes.data
