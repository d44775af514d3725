"""Loading and running a plan against stand-ins for TensorRT and the GPU: neither can run without an NVIDIA driver."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt_session import FakeContext, FakeTensorRT
from host_cuda import HostCuda
from numpy.typing import NDArray
from plans import plan_bytes

from engines import cuda as cuda_file
from engines.base import AxisProfile, Session, Target
from engines.device_array import device_array
from engines.errors import EngineDamaged, EngineError, RuntimeMissing
from engines.files import sha256_of_file
from engines.run_options import RunConditions, RunOptions
from engines.tensorrt import TensorRTRTX
from engines.tensorrt.module import RuntimeModule
from engines.tensorrt.profile_choice import SizeRange, chosen_profile
from engines.tensorrt.session import open_session

PLAN = Path("e.plan")


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
    feeds = [batch(size) + size for size in (2, 4, 1, 3)]
    results = [session.run({"x": each})["y"] for each in feeds]
    assert [result.tolist() for result in results] == [(each * 2).tolist() for each in feeds]


def test_an_array_with_gaps_is_made_whole_before_it_is_copied(session: Session) -> None:
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    assert session.run({"x": wide})["y"].tolist() == (wide * 2).tolist()


def test_buffers_grow_once_to_the_largest_batch(session: Session, cuda: HostCuda) -> None:
    for size in (1, 4, 2, 4):
        session.run({"x": batch(size)})
    assert cuda.allocated == 4
    assert sorted(len(buffer) for buffer in cuda.memory.values()) == [48, 48]
    assert sorted(len(memory) for memory in cuda.pinned.values()) == [48, 48]


def test_a_context_is_set_up_where_the_shape_changes_and_not_where_it_repeats(
    session: Session, trt: FakeTensorRT
) -> None:
    for size in (2, 2, 2, 3, 2):
        assert session.run({"x": batch(size)})["y"].tolist() == (batch(size) * 2).tolist()
    assert trt.context.set_up == 3


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


def test_a_runtime_that_does_not_start_is_an_error_with_the_lines_of_its_log(
    session: Session, trt: FakeTensorRT
) -> None:
    trt.context.starts, trt.context.says = (
        False,
        "IExecutionContext::enqueueV3: Error Code 7: no kernel (In go at /a.cpp:1)",
    )
    said = r"^e\.plan: the runtime did not start; build the engine again for this machine \(Error Code 7: no kernel\)$"
    with pytest.raises(EngineError, match=said):
        session.run({"x": batch(1)})
    trt.context.starts, trt.context.says = True, ""
    assert session.run({"x": batch(1)})["y"].tolist() == [[0, 2, 4]]


def test_an_error_of_the_gpu_carries_cudas_name_of_it(session: Session, cuda: HostCuda) -> None:
    cuda.fails_at_wait = "cudaErrorIllegalAddress (an illegal memory access was encountered)"
    with pytest.raises(EngineError, match=r"^e\.plan: waiting for the GPU failed: cudaErrorIllegalAddress \(an ill"):
        session.run({"x": batch(1)})


def test_a_gpu_without_enough_memory_ends_the_run_and_says_what_to_do(session: Session, cuda: HostCuda) -> None:
    cuda.largest_bytes = 12
    said = r"allocating 48 bytes on the GPU failed: cudaErrorMemoryAllocation; free memory on the GPU, run a smaller"
    with pytest.raises(EngineError, match=rf"^e\.plan: {said}"):
        session.run({"x": batch(4)})
    assert session.run({"x": batch(1)})["y"].tolist() == [[0, 2, 4]]


def test_an_engine_too_large_for_the_gpu_is_not_told_to_be_built_again(trt: FakeTensorRT, cuda: HostCuda) -> None:
    trt.engine.context = None
    trt.engine.logger = None
    with pytest.raises(EngineError, match="it did not say why"):
        open_session(trt, cuda, b"plan", PLAN)
    trt.engine.create_execution_context = lambda: trt.engine.logger.log(1, "Error Code 2: OutOfMemory (9 bytes)")  # type: ignore[method-assign]
    said = r"does not load it \(Error Code 2: OutOfMemory \(9 bytes\)\); free memory on the GPU"
    with pytest.raises(EngineError, match=said):
        open_session(trt, cuda, b"plan", PLAN)


def test_a_tensor_that_must_lie_in_host_memory_is_refused(trt: FakeTensorRT, cuda: HostCuda) -> None:
    trt.engine.on_host = "x"
    with pytest.raises(EngineError, match=r"e\.plan: tensor 'x' holds a shape, which sessions do not take; fix it"):
        open_session(trt, cuda, b"plan", PLAN)


# Several profiles


@pytest.fixture
def two_profiles(trt: FakeTensorRT, cuda: HostCuda) -> Session:
    trt.engine.profiles = [((1, 3), (1, 3), (1, 3)), ((4, 3), (8, 3), (16, 3))]
    return open_session(trt, cuda, b"plan", PLAN)


def test_the_first_profile_that_takes_a_batch_is_switched_to(two_profiles: Session, trt: FakeTensorRT) -> None:
    for size, profile in ((1, 0), (9, 1), (16, 1), (1, 0)):
        assert two_profiles.run({"x": batch(size)})["y"].tolist() == (batch(size) * 2).tolist()
        assert trt.context.profile == profile


def test_a_batch_between_the_profiles_is_refused_with_the_ranges_of_all(two_profiles: Session) -> None:
    said = "e.plan: input 'x' has batch size 2; the engine was built for 1 to 1, or 4 to 16"
    with pytest.raises(EngineError, match=said):
        two_profiles.run({"x": batch(2)})


def test_sizes_that_no_one_profile_takes_together_are_refused() -> None:
    short = {"x": (SizeRange(0, 1, 8), SizeRange(1, 1, 4))}
    long = {"x": (SizeRange(0, 1, 1), SizeRange(1, 1, 64))}
    assert [chosen_profile([short, long], {"x": shape}) for shape in ((8, 4), (1, 4), (1, 64))] == [0, 0, 1]
    said = r"no profile of the engine takes these sizes together: 'x' \[8, 64\]; profile 0 takes 'x' dimension 0 1 to 8"
    with pytest.raises(EngineError, match=said):
        chosen_profile([short, long], {"x": (8, 64)})


# Output sizes that only a run tells


@pytest.fixture
def keeping(trt: FakeTensorRT, cuda: HostCuda) -> Session:
    trt.engine.keeps = True
    return open_session(trt, cuda, b"plan", PLAN)


def test_an_output_that_depends_on_the_data_has_the_size_of_each_run(keeping: Session, cuda: HostCuda) -> None:
    with keeping:
        for size, rows in ((4, [[12, 14, 16], [18, 20, 22]]), (3, [[12, 14, 16]]), (1, [])):
            found = keeping.run({"x": batch(size)})["y"]
            assert (found.tolist(), found.shape) == (rows, (len(rows), 3))
    assert (cuda.memory, cuda.closed) == ({}, 1)


def test_an_output_for_which_there_is_no_memory_is_an_error_that_says_so(keeping: Session, cuda: HostCuda) -> None:
    cuda.largest_bytes = 40
    with pytest.raises(EngineError, match=r"e\.plan: allocating 48 bytes on the GPU failed: cudaErrorMemoryAlloc"):
        keeping.run({"x": batch(2)})


def test_an_output_that_depends_on_the_data_is_not_captured_and_not_in_silence(
    trt: FakeTensorRT, cuda: HostCuda
) -> None:
    trt.engine.keeps = True
    session = open_session(trt, cuda, b"plan", PLAN, RunOptions(cuda_graph=True))
    said = r"e\.plan: the size of output 'y' depends on the data, and such work is not captured in a CUDA graph; take"
    for _ in range(2):
        with pytest.raises(EngineError, match=said):
            session.run({"x": batch(2)})


# CUDA graphs


@pytest.fixture
def graphed(trt: FakeTensorRT, cuda: HostCuda) -> Session:
    return open_session(trt, cuda, b"plan", PLAN, RunOptions(cuda_graph=True))


def test_a_graph_replays_what_a_plain_run_computes_while_shapes_repeat(graphed: Session, cuda: HostCuda) -> None:
    with graphed:
        for number, size in enumerate((2, 2, 2, 3, 2, 2)):
            values = batch(size) + number
            assert graphed.run({"x": values})["y"].tolist() == (values * 2).tolist()
        # The first run at a shape is a plain one, the second is captured; another shape ends the graph.
        assert (cuda.captured, cuda.launched, len(cuda.graphs)) == (2, 3, 1)
    assert (cuda.graphs, cuda.closed) == ({}, 1)


def test_work_that_cannot_be_captured_is_an_error_that_says_how_to_go_on(graphed: Session, trt: FakeTensorRT) -> None:
    graphed.run({"x": batch(2)})
    trt.context.starts = False
    with pytest.raises(EngineError, match=r"the runtime did not start.*; not every engine can be captured: take"):
        graphed.run({"x": batch(2)})


def test_a_runtime_that_captures_graphs_itself_is_told_to_and_captured_by_nobody_else(
    trt: FakeTensorRT, cuda: HostCuda
) -> None:
    config, given = types.SimpleNamespace(cuda_graph_strategy="disabled"), []
    trt.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    trt.engine.create_runtime_config = lambda: config  # type: ignore[attr-defined]

    def create_execution_context(runtime_config: object) -> FakeContext:
        given.append(runtime_config)
        return trt.context

    trt.engine.create_execution_context = create_execution_context  # type: ignore[method-assign, assignment]
    with open_session(trt, cuda, b"plan", PLAN, RunOptions(cuda_graph=True)) as session:
        for _ in range(3):
            assert session.run({"x": batch(1)})["y"].tolist() == [[0, 2, 4]]
    assert (config.cuda_graph_strategy, given, cuda.captured) == ("whole", [config], 0)


# Times


@pytest.mark.parametrize("spin_wait", [True, False])
def test_what_a_time_depends_on_is_told_with_the_session(trt: FakeTensorRT, cuda: HostCuda, spin_wait: bool) -> None:
    options = RunOptions(cuda_graph=True, spin_wait=spin_wait)
    session = open_session(trt, cuda, b"plan", PLAN, options)
    assert session.conditions == RunConditions(transfers=True, cuda_graph=True, spin_wait=spin_wait)
    assert bool(cuda.spinning) is spin_wait


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_copies_and_compute_are_timed_apart_by_the_gpus_clock(
    trt: FakeTensorRT, cuda: HostCuda, cuda_graph: bool
) -> None:
    with open_session(trt, cuda, b"plan", PLAN, RunOptions(cuda_graph=cuda_graph)) as session:
        for _ in range(3):
            phases = session.run_in_phases({"x": batch(2)})
            assert phases is not None
            assert (phases.h2d_ms, phases.gpu_compute_ms, phases.d2h_ms) == (0.5, 0.5, 0.5)
            assert phases.latency_ms == 1.5
            assert phases.enqueue_ms > 0
        assert session.run({"x": batch(1)})["y"].tolist() == [[0, 2, 4]]


def test_an_output_sized_by_the_data_is_timed_apart_too(keeping: Session) -> None:
    phases = keeping.run_in_phases({"x": batch(4)})
    assert phases is not None
    assert (phases.h2d_ms, phases.gpu_compute_ms, phases.d2h_ms) == (0.5, 0.5, 0.5)


# Inputs that lie on the GPU


class Tensor:
    """What torch's tensors are to others: they have no type of numpy's."""

    def __init__(self, pointer: int, shape: tuple[int, ...], typestr: str = "<f4", **more: Any) -> None:
        self.interface = {"data": (pointer, False), "shape": shape, "typestr": typestr, "strides": None, **more}

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


def on_gpu(cuda: HostCuda, values: NDArray[np.float32]) -> int:
    pointer = cuda.allocate(values.nbytes)
    cuda.memory[pointer][:] = values.tobytes()
    return pointer


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_tensor_on_the_gpu_is_read_where_it_is(trt: FakeTensorRT, cuda: HostCuda, cuda_graph: bool) -> None:
    session = open_session(trt, cuda, b"plan", PLAN, RunOptions(cuda_graph=cuda_graph))
    first, second = on_gpu(cuda, batch(2)), on_gpu(cuda, batch(2) + 1)
    for pointer, values in ((first, batch(2)), (first, batch(2)), (second, batch(2) + 1), (second, batch(2) + 1)):
        tensor: Any = Tensor(pointer, (2, 3))
        assert session.run({"x": tensor})["y"].tolist() == (values * 2).tolist()
        assert trt.context.addresses["x"] == pointer
    assert session.run({"x": batch(2)})["y"].tolist() == (batch(2) * 2).tolist()
    assert trt.context.addresses["x"] not in (first, second)
    phases = session.run_in_phases({"x": tensor})
    assert phases is not None
    assert phases.h2d_ms == 0


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (Tensor(1 << 60, (1, 3)), "input 'x' is on GPU 1, and the engine runs on GPU 0; move it there"),
        (Tensor(4096, (1, 3)), "input 'x' is in host memory, and the engine runs on GPU 0"),
        (Tensor(4096, (1, 3), "<f8"), r"input 'x' is float64; expected float32 \[any, 3\]"),
        (Tensor(4096, (3,)), r"input 'x' has shape \[3\]; expected float32 \[any, 3\]"),
        (Tensor(4096, (9, 3)), "input 'x' has batch size 9; the engine was built for 1 to 4"),
        (Tensor(4096, (2, 3), strides=(24, 4)), "input 'x' has gaps in its memory on the GPU; pass it contiguous"),
    ],
)
def test_a_tensor_that_the_engine_cannot_read_is_refused(session: Session, tensor: Any, said: str) -> None:
    with pytest.raises(EngineError, match=f"e.plan: {said}"):
        session.run({"x": tensor})


def test_a_tensor_with_the_strides_of_contiguous_memory_has_no_gaps() -> None:
    assert device_array("x", Tensor(8, (2, 1, 3), strides=(12, 999, 4))) is not None
    assert device_array("x", batch(1)) is None


def test_a_tensor_that_does_not_give_its_memory_away_is_refused_with_its_reason() -> None:
    class Guarded:
        @property
        def __cuda_array_interface__(self) -> object:
            raise RuntimeError("it requires grad; use detach()")

    with pytest.raises(EngineError, match=r"input 'x' cannot be taken from the GPU: it requires grad; use detach\(\)"):
        device_array("x", Guarded())


@pytest.mark.parametrize(("stream", "waited"), [(None, 0), (1, 0), (2, 1), (4096, 1)])
def test_a_tensor_that_another_stream_may_still_fill_is_waited_for(
    session: Session, cuda: HostCuda, stream: int | None, waited: int
) -> None:
    tensor: Any = Tensor(on_gpu(cuda, batch(1)), (1, 3), stream=stream)
    assert session.run({"x": tensor})["y"].tolist() == [[0, 2, 4]]
    assert cuda.waited_for_all == waited


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
