"""Device memory through ctypes and pycuda, against libraries that record calls and fail on demand."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from engines import cuda
from engines.base import EngineError, RuntimeMissing
from engines.cuda import Cuda, CudaRuntime, PyCuda

# Device memory is host memory that starts far above 32 bits, so that a pointer cut to an int would crash the test.
FAKE_RUNTIME = r"""
#define _GNU_SOURCE
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
static char log_[4096]; static int fail_at = -1, calls = 0;
static int note(const char *name) { strcat(log_, name); strcat(log_, " "); return calls++ == fail_at ? 2 : 0; }
void fail_call(int index) { fail_at = index; calls = 0; log_[0] = 0; }
const char *calls_made(void) { return log_; }
int cudaMalloc(void **p, size_t n) {
  int e = note("malloc");
  if (!e) *p = mmap((void *)0x500000000000, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return e;
}
int cudaFree(void *p) { return note(p >= (void *)0x100000000 ? "free" : "free_of_a_cut_pointer"); }
int cudaStreamCreate(void **s) { *s = (void *)0x700000000001; return note("stream"); }
int cudaStreamDestroy(void *s) { return note(s == (void *)0x700000000001 ? "destroy" : "destroy_other"); }
int cudaStreamSynchronize(void *s) { return note(s == (void *)0x700000000001 ? "sync" : "sync_other"); }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *s) {
  int e = note(s != (void *)0x700000000001 ? "copy_other" : kind == 1 ? "up" : kind == 2 ? "down" : "copy_odd");
  if (!e) memcpy(to, from, n);
  return e;
}
const char *cudaGetErrorName(int e) { return e == 2 ? "cudaErrorMemoryAllocation" : "cudaErrorUnknown"; }
const char *cudaGetErrorString(int e) { return "out of memory"; }
"""

FAKE_DRIVER = r"""
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return COUNT > i ? 0 : 101; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 7; return 0; }
"""


def compiled(source: str, folder: Path, name: str, *flags: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make a stand-in for NVIDIA's library")
    file = folder / name
    (folder / f"{name}.c").write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", str(file), f"{file}.c"], check=True)
    return file


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled(FAKE_RUNTIME, tmp_path_factory.mktemp("cuda"), "libcudart.so.12")))
    library.calls_made.restype = ctypes.c_char_p
    return library


def calls_made(library: ctypes.CDLL) -> list[str]:
    return library.calls_made().decode().split()  # type: ignore[no-any-return]


def round_trip(device: Cuda) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    source = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = np.empty_like(source)
    stream = device.create_stream()
    pointer = device.allocate(source.nbytes)
    device.copy_to_device_async(pointer, source, stream)
    device.copy_to_host_async(result, pointer, stream)
    device.synchronize(stream)
    device.free(pointer)
    device.destroy_stream(stream)
    device.close()
    return result


def test_bytes_go_to_the_device_and_back_on_the_stream(library: ctypes.CDLL) -> None:
    library.fail_call(-1)
    assert round_trip(CudaRuntime(library)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert calls_made(library) == ["stream", "malloc", "up", "down", "sync", "free", "destroy"]


@pytest.mark.parametrize(
    ("index", "what"),
    list(
        enumerate(
            [
                "creating a CUDA stream",
                "allocating 24 bytes on the GPU",
                "copying 24 bytes to the GPU",
                "copying 24 bytes from the GPU",
                "waiting for the GPU",
                "freeing GPU memory",
                "destroying a CUDA stream",
            ]
        )
    ),
)
def test_each_failing_call_names_what_was_done_and_cudas_error(library: ctypes.CDLL, index: int, what: str) -> None:
    library.fail_call(index)
    with pytest.raises(EngineError, match=rf"^{what} failed: cudaErrorMemoryAllocation \(out of memory, cuda\w+ retu"):
        round_trip(CudaRuntime(library))
    assert len(calls_made(library)) == index + 1


def test_an_array_with_gaps_is_refused_instead_of_copied_wrongly(library: ctypes.CDLL) -> None:
    device = CudaRuntime(library)
    with pytest.raises(EngineError, match=r"copying 12 bytes to the GPU failed: the array is not C-contiguous; pass"):
        device.copy_to_device_async(0, np.zeros((3, 2), np.float32)[:, 0], 0)


def test_libcudart_is_found_inside_nvidias_wheels(
    library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nvidia" / "cuda_runtime" / "lib"
    folder.mkdir(parents=True)
    shutil.copy(library._name, folder / "libcudart.so.12")
    monkeypatch.setattr(cuda, "RUNTIME_LIBRARIES", ("libcudart.so.nowhere",))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert round_trip(cuda.open_cuda()).sum() == 15


def test_a_machine_without_the_cuda_runtime_is_told_what_was_tried_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "RUNTIME_LIBRARIES", ("libcudart.so.nowhere",))
    monkeypatch.setattr(cuda, "_packaged_runtimes", lambda: iter(()))
    with pytest.raises(
        RuntimeMissing, match=r"tried libcudart\.so\.nowhere\): install the CUDA toolkit, or pip install"
    ):
        cuda.open_cuda()


def test_without_a_driver_there_is_no_gpu_no_version_and_no_exception() -> None:
    nowhere = "libcuda.so.nowhere"
    assert (cuda.gpu_count(nowhere), cuda.driver_version(nowhere), cuda.compute_capability(nowhere)) == (0, None, None)
    assert str(cuda.why_no_gpu(nowhere)).startswith(
        "there is no NVIDIA driver here (libcuda.so.nowhere does not load): install it"
    )


def test_a_driver_tells_its_gpus_its_version_and_their_capability(tmp_path: Path) -> None:
    driver = str(compiled(FAKE_DRIVER, tmp_path, "libcuda.so.1", "-DINIT=0", "-DCOUNT=2"))
    assert (cuda.gpu_count(driver), cuda.driver_version(driver), cuda.compute_capability(driver)) == (2, "12.6", "8.7")
    assert cuda.why_no_gpu(driver) is None


@pytest.mark.parametrize("flags", [("-DINIT=100", "-DCOUNT=1"), ("-DINIT=0", "-DCOUNT=0")])
def test_a_driver_that_shows_no_gpu_counts_none_and_says_what_to_check(tmp_path: Path, flags: tuple[str, str]) -> None:
    driver = str(compiled(FAKE_DRIVER, tmp_path, "libcuda.so.1", *flags))
    assert (cuda.gpu_count(driver), cuda.compute_capability(driver)) == (0, None)
    assert cuda.why_no_gpu(driver) == (
        "the NVIDIA driver shows no GPU to this process: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    )


def test_a_library_that_is_no_driver_counts_as_none(library: ctypes.CDLL) -> None:
    assert (cuda.gpu_count(library._name), cuda.driver_version(library._name)) == (0, None)


class FakePyCudaError(Exception):
    pass


class FakePyCuda(types.ModuleType):
    """`pycuda.driver` with host memory for a device; pycuda itself needs CUDA to install."""

    Error = FakePyCudaError

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.events: list[str] = []
        self.memory: dict[int, bytes] = {}
        self.broken = ""

    def _note(self, event: str) -> None:
        self.events.append(event)
        if event == self.broken:
            raise FakePyCudaError(f"{event} failed: out of memory")

    def init(self) -> None:
        self._note("init")

    def Device(self, index: int) -> object:  # noqa: N802
        driver = self

        class Context:
            def retain_primary_context(self) -> Context:
                driver._note(f"primary context of {index}")
                return self

            def push(self) -> None:
                driver._note("push")

            def pop(self) -> None:
                driver._note("pop")

            def detach(self) -> None:
                driver._note("detach")

        return Context()

    def mem_alloc(self, _size: int) -> object:
        driver = self
        driver._note("mem_alloc")

        class Allocation:
            def __int__(self) -> int:
                return 4096

            def free(self) -> None:
                driver._note("free")

        return Allocation()

    def Stream(self) -> object:  # noqa: N802
        self._note("stream")
        return types.SimpleNamespace(handle=7, synchronize=lambda: self._note("sync"))

    def memcpy_htod_async(self, to: int, source: np.ndarray[tuple[int, ...], np.dtype[np.generic]], _: object) -> None:
        self._note("up")
        self.memory[to] = source.tobytes()

    def memcpy_dtoh_async(self, to: np.ndarray[tuple[int, ...], np.dtype[np.generic]], at: int, _: object) -> None:
        self._note("down")
        to[:] = np.frombuffer(self.memory[at], to.dtype).reshape(to.shape)


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> FakePyCuda:
    driver = FakePyCuda()
    package = types.ModuleType("pycuda")
    package.__spec__ = ModuleSpec("pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return driver


def test_pycuda_works_in_the_primary_context_and_gives_it_back(pycuda: FakePyCuda) -> None:
    assert round_trip(PyCuda()).tolist() == [[0, 1, 2], [3, 4, 5]]
    opened, closed = ["init", "primary context of 0", "push"], ["free", "pop", "detach"]
    assert pycuda.events == [*opened, "stream", "mem_alloc", "up", "down", "sync", *closed]


@pytest.mark.parametrize("broken", ["stream", "mem_alloc", "up", "down", "sync", "free"])
def test_an_error_of_pycuda_is_an_engine_error_with_its_text(pycuda: FakePyCuda, broken: str) -> None:
    pycuda.broken = broken
    with pytest.raises(EngineError, match=rf"failed: FakePyCudaError \({broken} failed: out of memory\)"):
        round_trip(PyCuda())


def test_pycuda_without_a_gpu_is_a_missing_runtime(pycuda: FakePyCuda) -> None:
    pycuda.broken = "init"
    with pytest.raises(RuntimeMissing, match=r"pycuda cannot open GPU 0: init failed: out of memory; check nvidia-smi"):
        PyCuda()


def test_pycuda_is_preferred_where_it_is_installed(pycuda: FakePyCuda) -> None:
    assert isinstance(cuda.open_cuda(), PyCuda)
