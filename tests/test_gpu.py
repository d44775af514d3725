"""Plans built, opened, run and timed on a real GPU, beside onnxruntime on the same graph.

Needs an NVIDIA GPU with its driver, `tensorrt_rtx` or `tensorrt`, and libcudart or pycuda; onnxruntime-gpu for its
providers. What this machine cannot run is skipped with what it lacks. `pytest -m gpu` runs these alone.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tensorrt_graphs import PLAIN, QUANTIZED, TARGET, quantization, weights, written

from engines import ENGINES, cuda
from engines.audit import summarize
from engines.base import Arrays, AxisProfile, BuiltEngine, Session, Target
from engines.cuda import Cuda, CudaRuntime, PyCuda
from engines.errors import EngineError
from engines.feeds import random_feeds
from engines.peak_memory import peak_memory_bytes
from engines.run_options import RunConditions, RunOptions
from engines.timing import TimingSettings, measure_latency

pytestmark = pytest.mark.gpu

BATCH_SIZES = (TARGET.batch.min, TARGET.batch.opt, TARGET.batch.max)
# Largest difference from onnxruntime, as a share of the largest output. FP8 wants a GPU of 8.9 or newer.
TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "int8": 2e-2}
TESTED_PRECISIONS = tuple(TOLERANCE)
PYCUDA_MISSING = importlib.util.find_spec("pycuda") is None


NO_GPU = cuda.why_no_gpu()
needs_gpu = pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU))


@dataclass(frozen=True)
class Plan:
    """One engine for the GPU, and the graph that it was built from."""

    graph: Path
    precision: str
    target: Target
    built: BuiltEngine

    def open(self, running: RunOptions | None = None) -> Session:
        target = self.target if running is None else replace(self.target, running=running)
        return ENGINES[target.runtime].open(self.built.file, self.built.sha256, target)


def target_of(runtime: str) -> Target:
    return replace(TARGET, name="gpu", runtime=runtime, precisions=TESTED_PRECISIONS)


def runtimes() -> list[object]:
    """Both runtimes; one that this machine cannot build for or run is marked with its own reason."""
    found: list[object] = []
    for runtime in ("tensorrt-rtx", "tensorrt"):
        engine, target = ENGINES[runtime], target_of(runtime)
        missing = engine.why_not_run(target) or engine.why_not_build(target)
        found.append(pytest.param(runtime, marks=pytest.mark.skipif(missing is not None, reason=str(missing))))
    return found


@pytest.fixture(scope="module", params=runtimes())
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=TESTED_PRECISIONS)
def plan(runtime: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Two convolutions and a residual, in the precision that the graph says."""
    folder, precision = tmp_path_factory.mktemp(runtime), str(request.param)
    if precision == "int8":
        graph = written(folder, QUANTIZED, weights() | quantization())
    elif precision == "fp16":
        graph = written(folder, PLAIN, weights(np.float16), "float16")
    else:
        graph = written(folder, PLAIN, weights())
    target = target_of(runtime)
    return Plan(graph, precision, target, ENGINES[runtime].build(graph, precision, target, folder / "e.plan"))


def reference(plan: Plan, feeds: Arrays, folder: Path) -> NDArray[np.float64]:
    """onnxruntime's answer: it takes each graph, whatever precision that holds."""
    cpu, target = ENGINES["onnxruntime"], Target("cpu", "onnxruntime")
    built = cpu.build(plan.graph, "fp32", target, folder / "reference.onnx")
    with cpu.open(built.file, built.sha256, target) as session:
        return session.run(feeds)["y"].astype(np.float64)


def agree(plan: Plan, session: Session, batch_size: int, folder: Path) -> bool:
    feeds = random_feeds(session.inputs, batch_size, seed=batch_size)
    found, expected = session.run(feeds)["y"].astype(np.float64), reference(plan, feeds, folder)
    assert found.shape == expected.shape == (batch_size, 16, 1, 1)
    return bool(np.abs(found - expected).max() <= TOLERANCE[plan.precision] * np.abs(expected).max())


def test_a_plan_answers_as_onnxruntime_does_from_its_smallest_to_its_largest_batch(plan: Plan, tmp_path: Path) -> None:
    with plan.open() as session:
        # The largest one in between: buffers that grew must serve a smaller batch too.
        for batch_size in (*BATCH_SIZES, TARGET.batch.min):
            assert agree(plan, session, batch_size, tmp_path), f"batch size {batch_size}"


@pytest.mark.parametrize("batch_size", [TARGET.batch.max + 1, 0])
def test_a_batch_outside_the_profile_is_refused_with_the_range_and_the_session_lives_on(
    plan: Plan, batch_size: int, tmp_path: Path
) -> None:
    with plan.open() as session:
        with pytest.raises(EngineError, match=rf"input 'x' has batch size {batch_size}; .* built for 1 to 4"):
            session.run(random_feeds(session.inputs, batch_size, seed=0))
        assert agree(plan, session, TARGET.batch.opt, tmp_path)


ADAPTERS = [
    pytest.param(lambda: CudaRuntime(cuda.load_runtime()), id="libcudart"),
    pytest.param(PyCuda, id="pycuda", marks=pytest.mark.skipif(PYCUDA_MISSING, reason="pycuda is not installed here")),
]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_plan_runs_through_either_way_to_the_gpu(
    plan: Plan, adapter: Callable[[], Cuda], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "open_cuda", adapter)
    for _ in range(2):  # what the first session let go of must not be missing in the second
        with plan.open() as session:
            assert agree(plan, session, TARGET.batch.max, tmp_path)


@needs_gpu
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_either_way_pins_memory_keeps_time_and_replays_graphs(adapter: Callable[[], Cuda]) -> None:
    device = adapter()
    stream, pointer = device.create_stream(), device.allocate(1 << 20)
    there, back = device.allocate_pinned(1 << 20), device.allocate_pinned(1 << 20)
    start, end = device.create_event(), device.create_event(spin_wait=False)
    assert (device.device_of(pointer), device.device_of(np.zeros(9).ctypes.data)) == (0, None)

    def there_and_back() -> None:
        device.copy_to_device_async(pointer, there, stream)
        device.copy_to_host_async(back, pointer, stream)

    graph = device.capture(stream, there_and_back)
    for value in (3, 4):
        there[:] = value
        device.record(start, stream)
        device.launch(graph, stream)
        device.record(end, stream)
        device.wait(end)
        assert (back == value).all()
        assert device.elapsed_ms(start, end) > 0
    device.synchronize_device()
    device.destroy_graph(graph)
    for event in (start, end):
        device.destroy_event(event)
    for memory in (there, back):
        device.free_pinned(memory)
    device.free(pointer)
    device.destroy_stream(stream)
    device.close()


@needs_gpu
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_memory_that_the_gpu_has_not_is_named_as_such_and_the_gpu_goes_on(adapter: Callable[[], Cuda]) -> None:
    device = adapter()
    with pytest.raises(EngineError, match=r"allocating \d+ bytes on the GPU failed: .*[Mm]emory"):
        device.allocate(1 << 46)
    device.free(device.allocate(1 << 20))
    device.close()


@pytest.mark.parametrize("running", [RunOptions(cuda_graph=True), RunOptions(spin_wait=False)], ids=["graph", "sleep"])
def test_a_graph_and_a_sleeping_wait_give_the_bits_of_a_plain_run(plan: Plan, running: RunOptions) -> None:
    with plan.open() as plain, plan.open(running) as other:
        assert other.conditions == RunConditions(True, running.cuda_graph, running.spin_wait)
        for size in (2, 2, 2, 4, 4, 4, 2, 2):  # plain, captured, replayed; and again where the shape changes
            feeds = random_feeds(plain.inputs, size, seed=size)
            np.testing.assert_array_equal(other.run(feeds)["y"], plain.run(feeds)["y"])


def test_an_input_on_the_gpu_gives_the_bits_of_one_that_was_copied(plan: Plan) -> None:
    device = CudaRuntime(cuda.load_runtime())
    stream = device.create_stream()
    with plan.open() as session:
        feeds = random_feeds(session.inputs, TARGET.batch.max, seed=0)
        pointer = device.allocate(feeds["x"].nbytes)
        device.copy_to_device_async(pointer, feeds["x"], stream)
        device.synchronize(stream)
        where = {"data": (pointer, False), "shape": feeds["x"].shape, "typestr": feeds["x"].dtype.str, "version": 3}
        on_gpu: Any = {"x": SimpleNamespace(__cuda_array_interface__=where)}
        expected = session.run(feeds)["y"]
        np.testing.assert_array_equal(session.run(on_gpu)["y"], expected)
        phases = session.run_in_phases(on_gpu)
        assert phases is not None
        assert phases.h2d_ms < 0.1
    device.free(pointer)
    device.destroy_stream(stream)


def test_a_tensor_of_torchs_is_read_where_it_is(plan: Plan) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here: its wheel is for the CPU")
    with plan.open() as session:
        feeds = random_feeds(session.inputs, TARGET.batch.max, seed=0)
        tensors: Any = {name: torch.from_numpy(array).cuda() * 1 for name, array in feeds.items()}
        np.testing.assert_array_equal(session.run(tensors)["y"], session.run(feeds)["y"])


def test_copies_and_compute_add_up_to_no_more_than_the_run_that_held_them(plan: Plan) -> None:
    with plan.open() as session:
        feeds = random_feeds(session.inputs, TARGET.batch.max, seed=0)
        session.run_in_phases(feeds)
        for _ in range(5):
            started = time.perf_counter()
            phases = session.run_in_phases(feeds)
            held_ms = (time.perf_counter() - started) * 1e3
            assert phases is not None
            assert min(phases.h2d_ms, phases.gpu_compute_ms, phases.d2h_ms, phases.enqueue_ms) > 0
            assert phases.latency_ms <= held_ms * 1.02  # two clocks


def test_the_inspector_tells_the_layers_that_the_builder_logged(plan: Plan) -> None:
    engine: Any = ENGINES[plan.target.runtime]
    products = {node: layer.kind for layer in plan.built.layers for node in layer.products}
    found = engine.inspect(plan.built.file, plan.built.sha256, plan.target, products)
    assert [layer.name for layer in found] == [layer.name for layer in plan.built.layers]
    assert summarize(found) == summarize(plan.built.layers)


def test_each_profile_takes_its_sizes_and_what_lies_between_is_refused(runtime: str, tmp_path: Path) -> None:
    target = replace(target_of(runtime), batch=AxisProfile(1, 1, 2), more_profiles=({"batch": AxisProfile(8, 8, 16)},))
    graph = written(tmp_path, PLAIN, weights())
    plan = Plan(graph, "fp32", target, ENGINES[runtime].build(graph, "fp32", target, tmp_path / "e.plan"))
    with plan.open() as session:
        for size in (1, 16, 2, 8):
            assert agree(plan, session, size, tmp_path)
        with pytest.raises(
            EngineError, match="input 'x' has batch size 4; the engine was built for 1 to 2, or 8 to 16"
        ):
            session.run(random_feeds(session.inputs, 4, seed=0))


def test_an_output_whose_size_depends_on_the_data_has_that_size(runtime: str, tmp_path: Path) -> None:
    if runtime == "tensorrt-rtx":
        pytest.skip("TensorRT-RTX 1.7 builds no operator whose size depends on the data")
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 8] x) => (int64[2, M] y) { y = NonZero(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    target = target_of(runtime)
    built = ENGINES[runtime].build(tmp_path / "m.onnx", "fp32", target, tmp_path / "e.plan")
    with ENGINES[runtime].open(built.file, built.sha256, target) as session:
        for filled in (0.0, 0.5, 1.0, 0.25):
            x = (np.random.default_rng(1).random((4, 8)) < filled).astype(np.float32)
            found = session.run({"x": x})["y"]
            np.testing.assert_array_equal(found, np.array(np.nonzero(x)))


@pytest.mark.parametrize(("provider", "precision"), [("cuda", "fp32"), ("cuda", "tf32"), ("tensorrt", "tf32")])
def test_onnxruntime_runs_on_the_provider_that_is_asked_for(provider: str, precision: str, tmp_path: Path) -> None:
    target = Target("gpu", "onnxruntime", (precision,), running=RunOptions(provider=provider))
    if (missing := ENGINES["onnxruntime"].why_not_run(target)) is not None:
        pytest.skip(missing)
    graph = written(tmp_path, PLAIN, weights())
    plan = Plan(graph, precision, target, ENGINES["onnxruntime"].build(graph, precision, target, tmp_path / "e.onnx"))
    with plan.open() as session:
        assert session.conditions.transfers
        for size in BATCH_SIZES:
            assert agree(plan, session, size, tmp_path)


def test_a_plan_is_timed_at_each_batch_of_its_profile(plan: Plan) -> None:
    settings = TimingSettings(seconds=0.05, max_seconds=10.0, min_samples=12, rounds=4, warmup_seconds=0.05)
    with plan.open() as session:
        feeds = {size: [random_feeds(session.inputs, size, seed) for seed in (0, 1)] for size in BATCH_SIZES}
        samples = measure_latency({"gpu": session}, feeds, settings)
    assert list(samples) == [("gpu", size) for size in BATCH_SIZES]
    for found in samples.values():
        assert found.complete
        assert len(found.milliseconds) >= settings.min_samples
        assert (found.milliseconds > 0).all()


def test_the_host_memory_of_a_plan_is_told_by_a_process_of_its_own(plan: Plan) -> None:
    largest = TARGET.batch.max
    found = peak_memory_bytes(plan.target.runtime, plan.built.file, plan.built.sha256, plan.target, largest)
    assert found > plan.built.bytes
