"""Plans built, opened, run and timed on a real GPU, beside onnxruntime on the same graph.

Needs an NVIDIA GPU with its driver, `tensorrt_rtx` or `tensorrt`, and libcudart or pycuda. Each runtime that this
machine cannot run is skipped with what it lacks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorrt_graphs import PLAIN, QUANTIZED, TARGET, quantization, weights, written

from engines import ENGINES, PRECISIONS, cuda
from engines.base import Arrays, BuiltEngine, EngineError, Session, Target
from engines.cuda import Cuda, CudaRuntime, PyCuda
from engines.feeds import random_feeds
from engines.peak_memory import peak_memory_bytes
from engines.timing import TimingSettings, measure_latency

pytestmark = pytest.mark.gpu

BATCH_SIZES = (TARGET.batch.min, TARGET.batch.opt, TARGET.batch.max)
# Largest difference from onnxruntime, as a share of the largest output.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 2e-2}
PYCUDA_MISSING = importlib.util.find_spec("pycuda") is None


@dataclass(frozen=True)
class Plan:
    """One engine for the GPU, and the graph that it was built from."""

    graph: Path
    precision: str
    target: Target
    built: BuiltEngine

    def open(self) -> Session:
        return ENGINES[self.target.runtime].open(self.built.file, self.built.sha256, self.target)


def target_of(runtime: str) -> Target:
    return replace(TARGET, name="gpu", runtime=runtime, precisions=PRECISIONS)


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


@pytest.fixture(scope="module", params=PRECISIONS)
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


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param(lambda: CudaRuntime(cuda.load_runtime()), id="libcudart"),
        pytest.param(
            PyCuda, id="pycuda", marks=pytest.mark.skipif(PYCUDA_MISSING, reason="pycuda is not installed here")
        ),
    ],
)
def test_a_plan_runs_through_either_way_to_the_gpu(
    plan: Plan, adapter: Callable[[], Cuda], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "open_cuda", adapter)
    for _ in range(2):  # what the first session let go of must not be missing in the second
        with plan.open() as session:
            assert agree(plan, session, TARGET.batch.max, tmp_path)


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
