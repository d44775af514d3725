"""Both ways to CUDA against one contract, on libraries that record calls and fail on demand."""

from __future__ import annotations

import ctypes
import shutil
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt_session import FakeContext, FakeTensorRT
from host_cuda import HostCuda
from stand_in_cuda import SOURCE, StandInPyCuda, compiled

from engines import cuda
from engines.cuda import Cuda, CudaRuntime, PyCuda, driver, driver_calls, runtime
from engines.errors import EngineError, RuntimeMissing
from engines.run_options import RunOptions
from engines.tensorrt.session import open_session

FAKE_DRIVER = r"""
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return COUNT > i ? 0 : 101; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 7; return 0; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled(SOURCE, tmp_path_factory.mktemp("cuda"), "libcudart.so.12")))
    library.calls_made.restype = ctypes.c_char_p
    return library


@pytest.fixture
def pycuda(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> StandInPyCuda:
    CudaRuntime(library)  # gives the library its prototypes
    stand_in = StandInPyCuda(library)
    package = types.ModuleType("pycuda")
    package.__spec__ = ModuleSpec("pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", stand_in)
    return stand_in


@pytest.fixture(params=["libcudart", "pycuda"])
def device(request: pytest.FixtureRequest, library: ctypes.CDLL) -> Iterator[Cuda]:
    """Either adapter, over the same library."""
    library.fail_call(-1)
    if request.param == "pycuda":
        request.getfixturevalue("pycuda")
    device = CudaRuntime(library, library._name) if request.param == "libcudart" else PyCuda(library._name)
    yield device
    device.close()


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
    return result


# The contract of both adapters


def test_bytes_go_to_the_device_and_back_on_the_stream(device: Cuda, library: ctypes.CDLL) -> None:
    assert round_trip(device).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert calls_made(library) == ["stream", "malloc", "up", "down", "sync", "free", "destroy"]


CALLS = [
    "creating a CUDA stream",
    "allocating 24 bytes on the GPU",
    "copying 24 bytes to the GPU",
    "copying 24 bytes from the GPU",
    "waiting for the GPU",
    "freeing GPU memory",
]


@pytest.mark.parametrize(("index", "what"), list(enumerate(CALLS)))
def test_each_failing_call_says_what_was_done_and_stops_there(
    device: Cuda, library: ctypes.CDLL, index: int, what: str
) -> None:
    library.fail_call(index)
    with pytest.raises(EngineError, match=rf"^{what} failed: \w+ \(.*out of memory"):
        round_trip(device)
    assert len(calls_made(library)) == index + 1
    library.fail_call(-1)


def test_an_array_with_gaps_is_refused_instead_of_copied_wrongly(device: Cuda) -> None:
    gaps = np.zeros((3, 2), np.float32)[:, 0]
    said = r"copying 12 bytes {} the GPU failed: the array is not C-contiguous; pass numpy.ascontiguousarray"
    with pytest.raises(EngineError, match=said.format("to")):
        device.copy_to_device_async(0, gaps, 0)
    with pytest.raises(EngineError, match=said.format("from")):
        device.copy_to_host_async(gaps, 0, 0)


def test_pinned_memory_is_an_array_of_bytes_that_is_freed_once(device: Cuda, library: ctypes.CDLL) -> None:
    memory = device.allocate_pinned(8)
    assert (str(memory.dtype), memory.shape, memory.flags.writeable) == ("uint8", (8,), True)
    memory[:] = range(8)
    assert memory.view(np.float32).shape == (2,)
    assert memory.tolist() == list(range(8))
    device.free_pinned(memory)
    assert calls_made(library) == ["pin", "unpin"]


def test_page_locked_memory_that_runs_out_says_how_much_was_asked_for(device: Cuda, library: ctypes.CDLL) -> None:
    library.fail_call(0)
    with pytest.raises(EngineError, match=r"^allocating 8 bytes of page-locked memory failed: .*out of memory"):
        device.allocate_pinned(8)


def test_events_tell_the_time_between_them_and_wait_by_spinning_or_sleeping(device: Cuda, library: ctypes.CDLL) -> None:
    stream = device.create_stream()
    start, end = device.create_event(), device.create_event(spin_wait=False)
    for event in (start, end):
        device.record(event, stream)
    device.wait(end)
    assert device.elapsed_ms(start, end) == 0.5
    for event in (start, end):
        device.destroy_event(event)
    device.synchronize_device()
    made = ["stream", "spinning_event", "sleeping_event"]
    assert calls_made(library) == [*made, "record", "record", "wait", "elapsed", *["destroy_event"] * 2, "sync_all"]
    device.destroy_stream(stream)


def test_a_graph_runs_nothing_while_it_is_captured_and_all_of_it_at_each_launch(
    device: Cuda, library: ctypes.CDLL
) -> None:
    stream, pointer = device.create_stream(), device.allocate(4)
    source, result = np.array([1], np.int32), np.zeros(1, np.int32)

    def there_and_back() -> None:
        device.copy_to_device_async(pointer, source, stream)
        device.copy_to_host_async(result, pointer, stream)

    graph = device.capture(stream, there_and_back)
    assert result.tolist() == [0]
    for value in (7, 8):
        source[:] = value
        device.launch(graph, stream)
        device.synchronize(stream)
        assert result.tolist() == [value]
    device.destroy_graph(graph)
    captured = ["begin", "up", "down", "end", "instantiate", "discard"]
    assert calls_made(library)[2:] == [*captured, "launch", "sync", "launch", "sync", "destroy_graph"]
    device.free(pointer)
    device.destroy_stream(stream)


def test_work_that_fails_while_it_is_captured_ends_the_capture_and_comes_out_as_it_is(
    device: Cuda, library: ctypes.CDLL
) -> None:
    def fails() -> None:
        raise ZeroDivisionError("mine")

    stream = device.create_stream()
    with pytest.raises(ZeroDivisionError, match="mine"):
        device.capture(stream, fails)
    assert calls_made(library) == ["stream", "begin", "end", "discard"]
    device.destroy_stream(stream)


@pytest.mark.parametrize(("index", "what"), [(1, "beginning to capture"), (2, "capturing"), (3, "making")])
def test_a_graph_that_cannot_be_made_names_the_drivers_error_and_leaks_nothing(
    device: Cuda, library: ctypes.CDLL, index: int, what: str
) -> None:
    library.fail_call(index)
    stream = device.create_stream()
    with pytest.raises(EngineError, match=rf"^{what} a CUDA graph failed: CUDA_ERROR_OUT_OF_MEMORY \(cu\w+ returned 2"):
        device.capture(stream, lambda: None)
    assert calls_made(library)[1:] == {1: ["begin"], 2: ["begin", "end"]}.get(
        index, ["begin", "end", "instantiate", "discard"]
    )
    device.destroy_stream(stream)


def test_a_pointer_tells_its_gpu_and_host_memory_has_none(device: Cuda) -> None:
    pointer = device.allocate(4)
    assert device.device_of(pointer) == 0
    assert device.device_of(np.zeros(4).ctypes.data) is None
    device.free(pointer)


class CopyingContext(FakeContext):
    """Copies `x` to `y` on the GPU of the library, so that its work can be captured as a kernel's can."""

    library: ctypes.CDLL

    def execute_async_v3(self, stream_handle: int) -> bool:
        size = int(np.prod(self.shape)) * 4
        to, source = self.addresses["y"], self.addresses["x"]
        return bool(self.library.cudaMemcpyAsync(to, source, size, 3, stream_handle) == 0)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_session_runs_on_either_adapter_and_gives_all_of_it_back(
    device: Cuda, library: ctypes.CDLL, cuda_graph: bool
) -> None:
    trt = FakeTensorRT(HostCuda())
    context = trt.engine.context = CopyingContext(HostCuda(), trt.engine)
    context.library = library
    with open_session(trt, device, b"plan", Path("e.plan"), RunOptions(cuda_graph=cuda_graph)) as session:
        for value in range(5):
            x = np.full((2, 3), value, np.float32)
            np.testing.assert_array_equal(session.run({"x": x})["y"], x)
        phases = session.run_in_phases({"x": x})
        assert phases is not None
        assert (phases.h2d_ms, phases.gpu_compute_ms, phases.d2h_ms) == (0.5, 0.5, 0.5)  # an event each
    made = calls_made(library)
    assert made.count("launch") == (5 if cuda_graph else 0)
    for taken, given in (("malloc", "free"), ("pin", "unpin"), ("stream", "destroy"), ("instantiate", "destroy_graph")):
        assert made.count(taken) == made.count(given)
    assert made.count("spinning_event") == made.count("destroy_event") == 6


# What only one of them has


def test_an_error_of_libcudart_carries_cudas_name_its_text_and_the_function(library: ctypes.CDLL) -> None:
    library.fail_call(0)
    said = r"failed: cudaErrorMemoryAllocation \(out of memory, cudaMalloc returned 2\)"
    with pytest.raises(EngineError, match=said):
        CudaRuntime(library).allocate(24)


def test_a_stream_that_is_not_destroyed_is_told(library: ctypes.CDLL) -> None:
    library.fail_call(0)
    with pytest.raises(EngineError, match="destroying a CUDA stream failed: cudaErrorMemoryAllocation"):
        CudaRuntime(library).destroy_stream(1)


def real_libcudart() -> ctypes.CDLL | None:
    try:
        return runtime.load_runtime()
    except RuntimeMissing:
        return driver.loaded("/usr/local/cuda/lib64/libcudart.so")


def test_the_libcudart_here_has_every_function_and_says_why_it_allocates_nothing_without_a_gpu() -> None:
    library = real_libcudart()
    if library is None:
        pytest.skip("there is no libcudart here")
    device = CudaRuntime(library)
    if cuda.why_no_gpu() is None:
        pytest.skip("there is a GPU here, on which it allocates; tests/test_gpu.py uses it")
    with pytest.raises(EngineError, match=r"allocating 16 bytes on the GPU failed: cudaError\w+ \(.*cudaMalloc retu"):
        device.allocate(16)


def test_a_driver_older_than_graphs_is_named(tmp_path: Path) -> None:
    old = compiled("int cuInit(unsigned flags) { return 0; }", tmp_path, "libcuda.so.1")
    with pytest.raises(RuntimeMissing, match=r"the NVIDIA driver has no cuStreamBeginCapture_v2, which came with CUDA"):
        driver_calls.DriverCalls(str(old)).capture(1, lambda: None)
    with pytest.raises(RuntimeMissing, match=r"there is no NVIDIA driver here \(libcuda.so.nowhere does not load\)"):
        driver_calls.DriverCalls("libcuda.so.nowhere").device_of(1)


def test_libcudart_is_found_inside_nvidias_wheels(
    library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.fail_call(-1)
    folder = tmp_path / "nvidia" / "cuda_runtime" / "lib"
    folder.mkdir(parents=True)
    shutil.copy(library._name, folder / "libcudart.so.12")
    monkeypatch.setattr(runtime, "LIBRARIES", ("libcudart.so.nowhere",))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert round_trip(cuda.open_cuda()).sum() == 15


def test_a_machine_without_the_cuda_runtime_is_told_what_was_tried_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "LIBRARIES", ("libcudart.so.nowhere",))
    monkeypatch.setattr(runtime, "_packaged_runtimes", lambda: iter(()))
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
    library = str(compiled(FAKE_DRIVER, tmp_path, "libcuda.so.1", "-DINIT=0", "-DCOUNT=2"))
    assert (cuda.gpu_count(library), cuda.driver_version(library), cuda.compute_capability(library)) == (
        2,
        "12.6",
        "8.7",
    )
    assert cuda.why_no_gpu(library) is None


@pytest.mark.parametrize("flags", [("-DINIT=100", "-DCOUNT=1"), ("-DINIT=0", "-DCOUNT=0")])
def test_a_driver_that_shows_no_gpu_counts_none_and_says_what_to_check(tmp_path: Path, flags: tuple[str, str]) -> None:
    library = str(compiled(FAKE_DRIVER, tmp_path, "libcuda.so.1", *flags))
    assert (cuda.gpu_count(library), cuda.compute_capability(library)) == (0, None)
    assert cuda.why_no_gpu(library) == (
        "the NVIDIA driver shows no GPU to this process: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    )


def test_a_library_that_is_no_driver_counts_as_none(library: ctypes.CDLL) -> None:
    assert (cuda.gpu_count(library._name), cuda.driver_version(library._name)) == (0, None)


def test_pycuda_works_in_the_primary_context_and_gives_it_back(pycuda: StandInPyCuda) -> None:
    PyCuda().close()
    assert pycuda.events == ["init", "primary context of 0", "push", "pop", "detach"]


def test_pycuda_without_a_gpu_is_a_missing_runtime(pycuda: StandInPyCuda) -> None:
    pycuda.broken = "init"
    with pytest.raises(RuntimeMissing, match=r"pycuda cannot open GPU 0: init failed: out of memory; check nvidia-smi"):
        PyCuda()


def test_pycuda_is_preferred_where_it_is_installed(pycuda: StandInPyCuda) -> None:
    assert isinstance(cuda.open_cuda(), PyCuda)
    assert cuda.why_no_adapter() is None
