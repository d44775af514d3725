"""What a target may be asked for, one build with its progress, and what is recorded of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn, final

import pytest
from pydantic import ValidationError

from engines.base import AxisProfile, BuiltEngine, Engine, StepDone, Target
from engines.errors import BuildCancelled, EngineError
from engines.run_options import RunOptions
from pipeline.building.axis_sizes import Profile
from pipeline.building.builds import Wanted, built_engine, engine_line, engine_record
from pipeline.building.target_settings import TargetSettings, missing_profiles, unused_profiles
from pipeline.errors import Cancelled, NotAcceptable, ResourceExhausted
from pipeline.measuring.loaded_engines import LoadedEngine
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress

LENGTHS = {"min": 4, "opt": 16, "max": 64}


@final
class FailingEngine(Engine):
    """Its build raises what it was given."""

    runtime: ClassVar[str] = "failing"
    suffix: ClassVar[str] = ".plan"
    family: ClassVar[str] = "cpu"
    for_gpu: ClassVar[bool] = False

    def __init__(self, error: EngineError) -> None:
        self._error = error

    def versions(self) -> dict[str, str]:
        return {}

    def why_not_build(self, target: Target) -> None:
        del target

    def why_not_run(self, target: Target) -> None:
        del target

    def build(
        self,
        graph: Path,
        precision: str,
        target: Target,
        to: Path,
        on_step: StepDone | None = None,
        ranges: Path | None = None,
    ) -> BuiltEngine:
        del graph, precision, target, to, on_step, ranges
        raise self._error

    def open(self, engine: Path, sha256: str, target: Target) -> NoReturn:
        del engine, sha256, target
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EngineError("the runtime gave no plan"), NotAcceptable),
        (EngineError("allocating 9 bytes failed: out of memory"), ResourceExhausted),
        (BuildCancelled("cancelled"), Cancelled),
    ],
)
def test_whatever_an_engine_raises_is_told_to_the_user(
    error: EngineError, kind: type[Exception], tmp_path: Path
) -> None:
    target, graph = Target("edge", "failing"), tmp_path / "own.onnx"
    wanted = Wanted("int8", graph, tmp_path / "int8.plan")
    with pytest.raises(kind) as caught:
        built_engine(FailingEngine(error), wanted, target, QuietProgress(), Cancellation())
    assert caught.value.__cause__ is error
    if kind is not Cancelled:
        assert str(caught.value) == f"target edge, int8: {error}"


def test_two_builds_of_the_same_bytes_have_one_record_whatever_time_they_took(tmp_path: Path) -> None:
    quick = BuiltEngine(tmp_path / "cpu" / "fp32.onnx", 9, "00", 0.5, (), {"onnxruntime": "1.0"})
    slow = replace(quick, seconds=70.0)
    assert engine_record(quick, tmp_path) == engine_record(slow, tmp_path)
    assert "in 70.0 s" in engine_line("cpu fp32", slow)


@pytest.mark.parametrize(
    "asked",
    [
        {"batch": Profile()},
        {"batch": {"max": 128}},
        {"compute_capabilities": ("8.6",)},
        {"workspace_mb": 9},
        {"axes": {"length": LENGTHS}},
    ],
)
def test_what_only_a_gpu_obeys_is_refused_for_a_cpu(asked: dict[str, object]) -> None:
    (key,) = asked
    with pytest.raises(ValidationError, match=f"{key} is for GPUs, onnxruntime runs on a CPU; take it out"):
        TargetSettings.model_validate({"runtime": "onnxruntime", **asked})


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"batch": LENGTHS}, r"the sizes of 'batch' have a key of their own: batch = \{ min = …, opt = …, max = … \}"),
        ({"length": {"min": 8, "opt": 4, "max": 16}}, "min 8, opt 4, max 16 must rise in this order"),
        ({"length": {"opt": 4, "max": 16}}, r"(?s)axes\.length\.min.*Field required"),
        ({"length": {**LENGTHS, "min": 0}}, "greater than 0"),
    ],
)
def test_sizes_of_an_axis_that_cannot_be_meant_are_refused(axes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TargetSettings.model_validate({"runtime": "tensorrt-rtx", "axes": axes})


def test_the_engine_is_told_the_sizes_of_every_axis_and_reads_them_back_from_its_record() -> None:
    settings = TargetSettings.model_validate({"runtime": "tensorrt-rtx", "axes": {"length": LENGTHS}})
    target = settings.target("edge", 1)
    assert target.axes == {"length": AxisProfile(4, 16, 64)}
    document = json.loads(json.dumps(asdict(target)))
    assert Target.from_json(document) == target


def test_a_gpu_target_has_to_say_the_sizes_of_each_dynamic_axis_and_a_cpu_none() -> None:
    dynamic = ("batch", "height", "width")
    settings = TargetSettings.model_validate({"runtime": "tensorrt-rtx", "axes": {"width": LENGTHS}})
    assert missing_profiles(settings, dynamic) == [
        "axis 'height' is dynamic ([export] dynamic), and tensorrt-rtx has to know its sizes: "
        "add axes.height = { min = …, opt = …, max = … }"
    ]
    assert missing_profiles(TargetSettings(runtime="onnxruntime"), dynamic) == []
    assert missing_profiles(TargetSettings(runtime="tensorrt"), ("batch",)) == []


def test_sizes_of_an_axis_that_the_export_does_not_open_are_in_vain() -> None:
    settings = TargetSettings.model_validate({"runtime": "tensorrt-rtx", "axes": {"length": LENGTHS}})
    assert unused_profiles(settings, ("batch", "length")) == []
    assert unused_profiles(settings, ("batch", "height")) == [
        "axes.length is for an axis that [export] leaves fixed; take it out, or add 'length' to [export] dynamic"
    ]


def test_a_cpu_target_that_names_no_profile_takes_every_batch() -> None:
    assert TargetSettings(runtime="onnxruntime").takes_batch(4096)
    assert not TargetSettings(runtime="tensorrt-rtx").takes_batch(4096)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"provider": "gpu"}, "provider 'gpu' is unknown; did you mean 'cpu'"),
        ({"graph_optimization": "al"}, "graph_optimization 'al' is unknown; did you mean 'all'"),
        ({"cuda_graph": True}, "cuda_graph is for GPUs, onnxruntime runs on a CPU; take it out"),
        ({"provider": "cuda", "spin_wait": False}, "spin_wait is for GPUs, onnxruntime takes any batch"),
        (
            {"runtime": "tensorrt", "provider": "cuda"},
            "provider is for onnxruntime, the runtime is tensorrt",
        ),
        ({"precisions": ["fp16"]}, "onnxruntime on a CPU computes FP16 in FP32"),
        ({"provider": "cuda", "precisions": ["int8"]}, "CUDA provider has no INT8 convolution"),
        ({"provider": "tensorrt"}, "TensorRT provider has no switch for TF32, so its FP32 is 'tf32'"),
    ],
)
def test_what_a_runtime_does_not_obey_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TargetSettings.model_validate({"runtime": "onnxruntime", **settings})


def test_how_a_session_runs_reaches_the_engine() -> None:
    settings = {"runtime": "tensorrt", "cuda_graph": True, "spin_wait": False}
    assert TargetSettings.model_validate(settings).target("edge", 1).running == RunOptions(True, False)
    settings = {"runtime": "onnxruntime", "provider": "cuda", "graph_optimization": "basic", "precisions": ("fp16",)}
    running = TargetSettings.model_validate(settings).target("edge", 1).running
    assert running == RunOptions(provider="cuda", graph_optimization="basic")
    assert running.asked() == ("provider", "graph_optimization")


def test_an_engine_of_several_profiles_is_timed_at_the_batch_sizes_of_each() -> None:
    settings = {"runtime": "tensorrt", "batch": {"min": 1, "opt": 1, "max": 2}}
    more = {"profiles": [{"batch": {"min": 8, "opt": 8, "max": 16}}]}
    target = TargetSettings.model_validate({**settings, **more}).target("edge", 1)
    session: Any = None
    running = LoadedEngine(target, session, Path("e.plan"), "")
    assert [size for size in (1, 2, 4, 8, 16, 32) if running.takes(size)] == [1, 2, 8, 16]
    anywhere = replace(running, target=Target("cpu", "onnxruntime"))
    assert anywhere.takes(4096)
