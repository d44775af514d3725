"""NVIDIA's libraries as far as the adapters use them, in C: they record calls, fail on demand, and run on the CPU.

Device memory is host memory that starts far above 32 bits, so that a pointer cut to an int would crash the test.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import types
from pathlib import Path

import numpy as np
import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#define DEVICE ((char *)0x500000000000)
#define STREAM ((void *)0x700000000001)
typedef struct { void *to; const void *from; size_t n; } copy;
typedef struct { copy copies[8]; int count; } graph;
static char log_[16384]; static int fail_at = -1, calls = 0, capturing = 0, ticks = 0;
static graph recorded; static void *last;
static int note(const char *name) { strcat(log_, name); strcat(log_, " "); return calls++ == fail_at ? 2 : 0; }
static int on(void *s, const char *name, const char *other) { return note(s == STREAM ? name : other); }
void fail_call(int index) { fail_at = index; calls = 0; log_[0] = 0; capturing = 0; }
const char *calls_made(void) { return log_; }
int cudaMalloc(void **p, size_t n) {
  int e = note("malloc");
  if (!e) *p = mmap(DEVICE, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!e) last = *p;
  return e;
}
int cudaFree(void *p) { return note(p >= (void *)DEVICE ? "free" : "free_of_a_cut_pointer"); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) {
  int e = note(flags ? "pin_oddly" : "pin");
  if (!e) *p = malloc(n);
  return e;
}
int cudaFreeHost(void *p) { int e = note("unpin"); if (!e) free(p); return e; }
int cudaStreamCreate(void **s) { *s = STREAM; return note("stream"); }
int cudaStreamDestroy(void *s) { return on(s, "destroy", "destroy_other"); }
int cudaStreamSynchronize(void *s) { return on(s, "sync", "sync_other"); }
int cudaDeviceSynchronize(void) { return note("sync_all"); }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *s) {
  int e = note(s != STREAM ? "copy_other" : kind == 1 ? "up" : kind == 2 ? "down" : "copy_odd");
  if (e) return e;
  if (capturing) recorded.copies[recorded.count++] = (copy){to, from, n};
  else memcpy(to, from, n);
  return 0;
}
int cudaEventCreateWithFlags(void **event, unsigned flags) {
  *event = calloc(1, sizeof(int));
  return note(flags == 0 ? "spinning_event" : flags == 1 ? "sleeping_event" : "odd_event");
}
int cudaEventDestroy(void *event) { free(event); return note("destroy_event"); }
int cudaEventRecord(void *event, void *s) { *(int *)event = ++ticks; return on(s, "record", "record_other"); }
int cudaEventSynchronize(void *event) { (void)event; return note("wait"); }
int cudaEventElapsedTime(float *ms, void *start, void *end) {
  *ms = 0.5f * (*(int *)end - *(int *)start);
  return note("elapsed");
}
const char *cudaGetErrorName(int e) { return e == 2 ? "cudaErrorMemoryAllocation" : "cudaErrorUnknown"; }
const char *cudaGetErrorString(int e) { (void)e; return "out of memory"; }

int cuStreamBeginCapture_v2(void *s, int mode) {
  capturing = 1; recorded.count = 0;
  return on(s, mode == 1 ? "begin" : "begin_oddly", "begin_other");
}
int cuStreamEndCapture(void *s, void **g) {
  int e = on(s, "end", "end_other");
  capturing = 0; *g = e ? 0 : memcpy(malloc(sizeof recorded), &recorded, sizeof recorded);
  return e;
}
int cuGraphInstantiateWithFlags(void **made, void *g, unsigned long long flags) {
  (void)flags; *made = memcpy(malloc(sizeof(graph)), g, sizeof(graph));
  return note("instantiate");
}
int cuGraphDestroy(void *g) { free(g); return note("discard"); }
int cuGraphLaunch(void *made, void *s) {
  int e = on(s, "launch", "launch_other");
  graph *g = made;
  for (int i = 0; !e && i < g->count; i++) memcpy(g->copies[i].to, g->copies[i].from, g->copies[i].n);
  return e;
}
int cuGraphExecDestroy(void *made) { free(made); return note("destroy_graph"); }
int cuPointerGetAttribute(void *to, int attribute, unsigned long long pointer) {
  if ((void *)pointer != last) return 1;
  *(int *)to = attribute == 2 ? 2 : attribute == 9 ? 0 : -1;
  return 0;
}
int cuGetErrorName(int e, const char **name) {
  *name = e == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
"""


def compiled(source: str, folder: Path, name: str, *flags: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make a stand-in for NVIDIA's library")
    file = folder / name
    (folder / f"{name}.c").write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", str(file), f"{file}.c"], check=True)
    return file


class StandInError(Exception):
    pass


class StandInPyCuda(types.ModuleType):
    """`pycuda.driver` over the same library; pycuda itself needs CUDA's headers to install."""

    Error = StandInError

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__("pycuda.driver")
        self._library = library
        self.events: list[str] = []
        self.broken = ""
        self.Context = types.SimpleNamespace(synchronize=lambda: self._call("cudaDeviceSynchronize"))

    def note(self, event: str) -> None:
        self.events.append(event)
        if event == self.broken:
            raise StandInError(f"{event} failed: out of memory")

    def _call(self, function: str, *arguments: object) -> None:
        if getattr(self._library, function)(*arguments) != 0:
            raise StandInError(f"{function} failed: out of memory")

    def made(self, function: str, *arguments: object) -> int:
        found = ctypes.c_void_p()
        self._call(function, ctypes.byref(found), *arguments)
        return found.value or 0

    def init(self) -> None:
        self.note("init")

    def Device(self, index: int) -> object:  # noqa: N802
        context = types.SimpleNamespace(
            push=lambda: self.note("push"), pop=lambda: self.note("pop"), detach=lambda: self.note("detach")
        )

        def retain_primary_context() -> object:
            self.note(f"primary context of {index}")
            return context

        return types.SimpleNamespace(retain_primary_context=retain_primary_context)

    def mem_alloc(self, size: int) -> object:
        return _Allocation(self, self.made("cudaMalloc", size))

    def pagelocked_empty(self, shape: int, _dtype: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        address = self.made("cudaHostAlloc", shape, 0)
        return np.asarray(_HostAllocation(self, address, shape))

    def Stream(self) -> object:  # noqa: N802
        return _Stream(self, self.made("cudaStreamCreate"))

    def Event(self, flags: int) -> object:  # noqa: N802
        return _Event(self, self.made("cudaEventCreateWithFlags", flags))

    def memcpy_htod_async(
        self, to: int, source: np.ndarray[tuple[int, ...], np.dtype[np.generic]], stream: _Stream
    ) -> None:
        self._call("cudaMemcpyAsync", to, source.ctypes.data, source.nbytes, 1, stream.handle)

    def memcpy_dtoh_async(
        self, to: np.ndarray[tuple[int, ...], np.dtype[np.generic]], at: int, stream: _Stream
    ) -> None:
        self._call("cudaMemcpyAsync", to.ctypes.data, at, to.nbytes, 2, stream.handle)

    def call(self, function: str, *arguments: object) -> None:
        self._call(function, *arguments)


class _Allocation:
    def __init__(self, driver: StandInPyCuda, pointer: int) -> None:
        self._driver, self._pointer = driver, pointer

    def __int__(self) -> int:
        return self._pointer

    def free(self) -> None:
        self._driver.call("cudaFree", self._pointer)


class _HostAllocation:
    """What numpy takes for the base of an array over its memory, as it does of pycuda's."""

    def __init__(self, driver: StandInPyCuda, address: int, size: int) -> None:
        self._driver, self._address = driver, address
        self.__array_interface__ = {"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 3}

    def free(self) -> None:
        self._driver.call("cudaFreeHost", self._address)


class _Stream:
    def __init__(self, driver: StandInPyCuda, handle: int) -> None:
        self._driver, self.handle = driver, handle

    def synchronize(self) -> None:
        self._driver.call("cudaStreamSynchronize", self.handle)

    def __del__(self) -> None:
        self._driver.call("cudaStreamDestroy", self.handle)


class _Event:
    def __init__(self, driver: StandInPyCuda, handle: int) -> None:
        self._driver, self._handle = driver, handle

    def record(self, stream: _Stream) -> None:
        self._driver.call("cudaEventRecord", self._handle, stream.handle)

    def synchronize(self) -> None:
        self._driver.call("cudaEventSynchronize", self._handle)

    def time_till(self, end: _Event) -> float:
        elapsed = ctypes.c_float(0)
        self._driver.call("cudaEventElapsedTime", ctypes.byref(elapsed), self._handle, end._handle)
        return elapsed.value

    def __del__(self) -> None:
        self._driver.call("cudaEventDestroy", self._handle)
