"""Loading and running a plan against stand-ins for TensorRT and the GPU: neither can run without an NVIDIA driver.

The stand-in engine doubles its float input `x` of dynamic batch 1 to 4 into `y`.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plans import plan_bytes

from engines import cuda as cuda_file
from engines.base import AxisProfile, EngineDamaged, EngineError, RuntimeMissing, Session, Target, sha256_of_file
from engines.cuda import Cuda
from engines.tensorrt import TensorRTRTX
from engines.tensorrt.module import RuntimeModule
from engines.tensorrt.session import open_session

PLAN = Path("e.plan")


class HostCuda(Cuda):
    """A GPU whose memory is this process's. Copies and work happen at `synchronize`, as late as they may."""

    def __init__(self) -> None:
        self.memory: dict[int, bytearray] = {}
        self.queue: list[Callable[[], None]] = []
        self.allocated = 0
        self.streams = 0
        self.closed = 0

    def allocate(self, size_bytes: int) -> int:
        self.allocated += 1
        self.memory[self.allocated << 40] = bytearray(size_bytes)
        return self.allocated << 40

    def free(self, pointer: int) -> None:
        del self.memory[pointer]

    def create_stream(self) -> int:
        self.streams += 1
        return 77

    def destroy_stream(self, stream: int) -> None:
        assert stream == 77
        self.streams -= 1

    def copy_to_device_async(self, pointer: int, source: NDArray[np.generic], stream: int) -> None:
        assert stream == 77
        assert source.flags.c_contiguous
        self.queue.append(lambda: self._write(pointer, source.tobytes()))

    def copy_to_host_async(self, destination: NDArray[np.generic], pointer: int, stream: int) -> None:
        assert stream == 77
        self.queue.append(lambda: destination.data.cast("B").__setitem__(slice(None), self._read(pointer, destination)))

    def synchronize(self, stream: int) -> None:
        assert stream == 77
        while self.queue:
            self.queue.pop(0)()

    def close(self) -> None:
        assert not self.memory
        self.closed += 1

    def _write(self, pointer: int, data: bytes) -> None:
        self.memory[pointer][: len(data)] = data

    def _read(self, pointer: int, destination: NDArray[np.generic]) -> bytes:
        return bytes(self.memory[pointer][: destination.nbytes])


class FakeContext:
    def __init__(self, cuda: HostCuda) -> None:
        self.cuda = cuda
        self.shape: tuple[int, ...] = (-1, 3)
        self.output_shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.starts = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == "x"

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name in ("x", "y")

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return self.output_shape or self.shape

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 77
        size = int(np.prod(self.shape)) * 4

        def double() -> None:
            doubled = np.frombuffer(self.cuda.memory[self.addresses["x"]][:size], np.float32) * 2
            self.cuda.memory[self.addresses["y"]][:size] = doubled.tobytes()

        self.cuda.queue.append(double)
        return self.starts


class FakeTensorRT(types.SimpleNamespace):
    """As much of the module as a session touches; its engine is made of any bytes but b'broken'."""

    def __init__(self, cuda: HostCuda, output_type: str = "FLOAT") -> None:
        self.context = FakeContext(cuda)
        self.host_code_allowed: list[bool] = []
        words = ("FLOAT", "HALF", "INT8", "UINT8", "INT32", "INT64", "BOOL", "FP8")
        super().__init__(
            __name__=f"fake_tensorrt_{id(self)}",
            __version__="10.3.0",
            DataType=types.SimpleNamespace(**{word: word for word in words}),
            TensorIOMode=types.SimpleNamespace(INPUT="in", OUTPUT="out"),
            ILogger=type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2}),
            Runtime=lambda logger: FakeRuntime(logger, self, output_type),
        )


class FakeRuntime:
    def __init__(self, logger: Any, trt: FakeTensorRT, output_type: str) -> None:
        self.engine_host_code_allowed = True
        self._logger, self._trt, self._output_type = logger, trt, output_type

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        self._trt.host_code_allowed.append(self.engine_host_code_allowed)
        if serialized_engine == b"broken":
            self._logger.log(
                1, "IRuntime::deserializeCudaEngine: Error Code 1: incompatible version (In load at /a.cpp:48)"
            )
            return None
        return types.SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=lambda index: "xy"[index],
            get_tensor_mode=lambda name: {"x": "in", "y": "out"}[name],
            get_tensor_dtype=lambda name: {"x": "FLOAT", "y": self._output_type}[name],
            get_tensor_shape=lambda _name: (-1, 3),
            get_tensor_profile_shape=lambda _name, _profile_index: [(1, 3), (2, 3), (4, 3)],
            create_execution_context=lambda: self._trt.context,
        )


@pytest.fixture
def cuda() -> HostCuda:
    return HostCuda()


@pytest.fixture
def trt(cuda: HostCuda) -> FakeTensorRT:
    return FakeTensorRT(cuda)


@pytest.fixture
def session(trt: FakeTensorRT, cuda: HostCuda) -> Session:
    return open_session(trt, cuda, b"plan", PLAN)


def batch(size: int) -> NDArray[np.float32]:
    return np.arange(size * 3, dtype=np.float32).reshape(size, 3)


def test_a_session_says_what_it_takes_and_gives(session: Session) -> None:
    [(x, y)] = zip(session.inputs, session.outputs, strict=True)
    assert (x.name, x.dtype, x.shape) == ("x", "float32", (-1, 3))
    assert (y.name, y.dtype, y.shape) == ("y", "float32", (-1, 3))


def test_batches_of_each_size_give_results_that_belong_to_the_caller(session: Session) -> None:
    results = [session.run({"x": batch(size)})["y"] for size in (2, 4, 1, 3)]
    assert [result.tolist() for result in results] == [(batch(size) * 2).tolist() for size in (2, 4, 1, 3)]


def test_an_array_with_gaps_is_made_whole_before_it_is_copied(session: Session) -> None:
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    assert session.run({"x": wide})["y"].tolist() == (wide * 2).tolist()


def test_buffers_grow_once_to_the_largest_batch(session: Session, cuda: HostCuda) -> None:
    for size in (1, 4, 2, 4):
        session.run({"x": batch(size)})
    assert cuda.allocated == 4
    assert sorted(len(buffer) for buffer in cuda.memory.values()) == [48, 48]


@pytest.mark.parametrize("size", [0, 5])
def test_a_batch_outside_the_profile_is_refused_with_its_range(session: Session, size: int) -> None:
    with pytest.raises(EngineError, match=f"e.plan: input 'x' has batch size {size}; the engine was built for 1 to 4"):
        session.run({"x": batch(size)})


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "input 'x' is missing"),
        ({"x": batch(1), "z": batch(1)}, "input 'z' is unknown"),
        ({"x": batch(1).astype(np.float64)}, "input 'x' is float64; expected float32"),
        ({"x": batch(1).reshape(3)}, "input 'x' has shape"),
    ],
)
def test_wrong_feeds_are_refused_before_anything_is_copied(
    session: Session, cuda: HostCuda, feeds: dict[str, NDArray[np.generic]], said: str
) -> None:
    with pytest.raises(EngineError, match=f"e.plan: {said}"):
        session.run(feeds)
    assert cuda.allocated == 0


def test_an_output_whose_shape_depends_on_the_data_is_refused(session: Session, trt: FakeTensorRT) -> None:
    trt.context.output_shape = (-1, 3)
    said = (
        r"the shape \[-1, 3\] of output 'y' does not follow from the inputs' \('x' \[1, 3\]\): they differ in an axis"
    )
    with pytest.raises(EngineError, match=said):
        session.run({"x": batch(1)})


def test_a_runtime_that_does_not_start_is_an_error_and_no_result(session: Session, trt: FakeTensorRT) -> None:
    trt.context.starts = False
    with pytest.raises(EngineError, match=r"e\.plan: the runtime did not start; build the engine again for this mach"):
        session.run({"x": batch(1)})


def test_closing_frees_the_gpu_once_and_ends_the_session(session: Session, cuda: HostCuda) -> None:
    with session:
        session.run({"x": batch(2)})
    session.close()
    assert (cuda.memory, cuda.streams, cuda.closed) == ({}, 0, 1)
    with pytest.raises(EngineError, match=r"e\.plan: its session is closed; open the engine again"):
        session.run({"x": batch(2)})


def test_a_plan_may_not_bring_code_of_its_own(trt: FakeTensorRT, session: Session) -> None:
    assert trt.host_code_allowed == [False]


def test_a_plan_that_does_not_load_says_why_and_lets_go_of_the_gpu(trt: FakeTensorRT, cuda: HostCuda) -> None:
    with pytest.raises(EngineError, match=r"10\.3\.0 does not load it \(Error Code 1: incompatible version\); a plan"):
        open_session(trt, cuda, b"broken", PLAN)
    assert (cuda.closed, cuda.streams) == (1, 0)


def test_tensorrt_rtx_itself_says_why_it_does_not_load_noise(cuda: HostCuda) -> None:
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed here")
    with pytest.raises(
        EngineError, match=r"e\.plan: tensorrt_rtx [\d.]+ does not load it \(.*magicTag.*failed"
    ) as caught:
        open_session(real, cuda, b"noise" * 200, PLAN)
    assert "cudaError 35" not in str(caught.value)
    assert "/_src/" not in str(caught.value)


def test_a_type_that_numpy_has_not_is_refused(cuda: HostCuda) -> None:
    with pytest.raises(EngineError, match="tensor 'y' is FP8, which numpy has not; cast it in the graph"):
        open_session(FakeTensorRT(cuda, output_type="FP8"), cuda, b"plan", PLAN)
    assert (cuda.closed, cuda.streams) == (1, 0)


@pytest.fixture
def gpu(trt: FakeTensorRT, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU of compute capability 8.6 on which the stand-in is tensorrt_rtx."""
    monkeypatch.setattr(cuda_file, "why_no_gpu", lambda: None)
    monkeypatch.setattr(cuda_file, "compute_capability", lambda: "8.6")
    monkeypatch.setattr(cuda_file, "open_cuda", lambda: cuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)


def test_an_engine_opens_and_runs_on_a_machine_with_a_gpu(gpu: None, tmp_path: Path) -> None:
    plan = tmp_path / "e.plan"
    plan.write_bytes(plan_bytes())
    with TensorRTRTX().open(plan, sha256_of_file(plan), Target("rtx", "tensorrt-rtx")) as session:
        assert session.run({"x": batch(1)})["y"].tolist() == [[0, 2, 4]]


def test_other_bytes_than_the_recorded_ones_never_reach_the_runtime(
    gpu: None, trt: FakeTensorRT, tmp_path: Path
) -> None:
    plan = tmp_path / "e.plan"
    plan.write_bytes(plan_bytes())
    digest = sha256_of_file(plan)
    plan.write_bytes(b"evil")
    with pytest.raises(EngineDamaged, match="it was not loaded"):
        TensorRTRTX().open(plan, digest, Target("rtx", "tensorrt-rtx"))
    assert trt.host_code_allowed == []


@pytest.mark.parametrize(
    ("bytes_", "said"),
    [
        (
            plan_bytes((1, 6, 0, 9)),
            "built with tensorrt-rtx 1.6.0.9, the device has 1.7.1.116; releases of TensorRT-RTX",
        ),
        (plan_bytes()[:-1], "it was cut off or added to"),
        (b"ONNX" + plan_bytes()[4:], "as no plan of TensorRT does"),
    ],
)
def test_a_plan_that_preflight_refuses_never_reaches_the_runtime(
    gpu: None, trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_: bytes, said: str
) -> None:
    monkeypatch.setattr(RuntimeModule, "version", lambda _: "1.7.1.116")
    plan = tmp_path / "e.plan"
    plan.write_bytes(bytes_)
    with pytest.raises(EngineError, match=re.escape(said)):
        TensorRTRTX().open(plan, sha256_of_file(plan), Target("rtx", "tensorrt-rtx"))
    assert trt.host_code_allowed == []


def test_without_a_driver_a_whole_plan_is_not_loaded_and_it_is_said_why(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    monkeypatch.setattr(cuda_file, "why_no_gpu", lambda: "there is no NVIDIA driver here")
    plan = tmp_path / "e.plan"
    plan.write_bytes(plan_bytes())
    with pytest.raises(RuntimeMissing, match=r"e\.plan: there is no NVIDIA driver here"):
        TensorRTRTX().open(plan, sha256_of_file(plan), Target("rtx", "tensorrt-rtx", batch=AxisProfile()))
    assert trt.host_code_allowed == []
