"""What both adapters leave to the driver: graphs, and whose memory a pointer is.

pycuda has no graphs, and libcudart's cudaGraphInstantiate takes other arguments since CUDA 12; the driver's calls are
the same since CUDA 11.4. A stream of either library is one of the driver's.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from typing import Any, final

from engines.cuda.driver import LIBRARY, loaded
from engines.errors import EngineError, RuntimeMissing

# Values of cuda.h.
_THREAD_LOCAL = 1  # CUstreamCaptureMode: other threads may go on allocating
_MEMORY_TYPE, _DEVICE_ORDINAL = 2, 9  # CUpointer_attribute
_IN_HOST_MEMORY = 1  # CUmemorytype
_INVALID_VALUE = 1  # CUresult of a pointer that CUDA does not know

_POINTER, _ADDRESS = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
PROTOTYPES: Mapping[str, list[Any]] = {
    "cuStreamBeginCapture_v2": [_POINTER, ctypes.c_int],
    "cuStreamEndCapture": [_POINTER, _ADDRESS],
    "cuGraphInstantiateWithFlags": [_ADDRESS, _POINTER, ctypes.c_ulonglong],
    "cuGraphDestroy": [_POINTER],
    "cuGraphLaunch": [_POINTER, _POINTER],
    "cuGraphExecDestroy": [_POINTER],
    "cuPointerGetAttribute": [_POINTER, ctypes.c_int, ctypes.c_ulonglong],
    "cuGetErrorName": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
}


@final
class DriverCalls:
    """The driver is loaded at the first call."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._name = library

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """As `Cuda.capture`. A stream that fails to capture is left as it was before."""
        self._check("cuStreamBeginCapture_v2", "beginning to capture a CUDA graph", stream, _THREAD_LOCAL)
        captured = ctypes.c_void_p()
        try:
            work()
        except BaseException:
            self._library.cuStreamEndCapture(stream, ctypes.byref(captured))
            self._discard(captured)
            raise
        self._check("cuStreamEndCapture", "capturing a CUDA graph", stream, ctypes.byref(captured))
        graph = ctypes.c_void_p()
        try:
            self._check("cuGraphInstantiateWithFlags", "making a CUDA graph", ctypes.byref(graph), captured, 0)
        finally:
            self._discard(captured)
        return graph.value or 0

    def launch(self, graph: int, stream: int) -> None:
        self._check("cuGraphLaunch", "launching a CUDA graph", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._check("cuGraphExecDestroy", "destroying a CUDA graph", graph)

    def device_of(self, pointer: int) -> int | None:
        found = ctypes.c_int(0)
        known = self._library.cuPointerGetAttribute(ctypes.addressof(found), _MEMORY_TYPE, pointer)
        if known == _INVALID_VALUE or found.value == _IN_HOST_MEMORY:
            return None
        arguments = (ctypes.addressof(found), _DEVICE_ORDINAL, pointer)
        self._check("cuPointerGetAttribute", "asking for the GPU of a pointer", *arguments)
        return found.value

    @functools.cached_property
    def _library(self) -> ctypes.CDLL:
        library = loaded(self._name)
        if library is None:
            raise RuntimeMissing(f"there is no NVIDIA driver here ({self._name} does not load): install it")
        for name, arguments in PROTOTYPES.items():
            try:
                getattr(library, name).argtypes = arguments
            except AttributeError as error:
                raise RuntimeMissing(
                    f"the NVIDIA driver has no {name}, which came with CUDA 11.4: update it"
                ) from error
        return library

    def _discard(self, captured: ctypes.c_void_p) -> None:
        if captured.value is not None:
            self._library.cuGraphDestroy(captured)

    def _check(self, function: str, what: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            name = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(name))
            raise EngineError(f"{what} failed: {(name.value or b'?').decode()} ({function} returned {code})")
