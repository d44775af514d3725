"""Targets by device, what they ask of a builder, and what no builder does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_training import invoke
from tensorrt_graphs import PLAIN, RTX, TARGET, needs_tensorrt_rtx, weights, written

from engines import ENGINES
from engines.base import AxisProfile, Target
from engines.builder_options import BuilderOptions
from engines.errors import BuildFailed
from engines.files import sha256_of_file
from engines.machine import Gpu, this_machine
from engines.presets import PRESETS
from engines.tensorrt import timing_cache
from engines.tensorrt.refusals import what_rtx_refuses, what_tensorrt_refuses
from engines.tensorrt.timing_cache import keep_timing_cache, take_timing_cache, timing_cache_file
from pipeline.building.builds import Wanted, built_engine
from pipeline.building.older_opset import opset_of
from pipeline.building.target_presets import with_preset, with_presets
from pipeline.building.target_settings import TargetSettings, unused_profiles
from pipeline.commands.targets import target_of_preset
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress

ORIN = Target("orin", "tensorrt", ("fp16", "int8"), ("8.7",), int8="ranges")


def with_options(target: Target = ORIN, **options: Any) -> Target:
    return replace(target, builder=BuilderOptions(**options))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_target_that_its_runtime_does_not_refuse_and_names_its_source(name: str) -> None:
    target, preset = target_of_preset(name), PRESETS[name]
    assert (target.runtime, target.precisions) == (preset.runtime, preset.precisions)
    assert target.builder == preset.builder
    assert ENGINES[target.runtime].why_refused(target) is None
    assert preset.source


def test_what_a_target_says_itself_holds_against_its_preset() -> None:
    section = {"targets": {"mine": {"preset": "agx-orin-dla", "precisions": ("int8",), "opset": 16}}}
    target = TargetSettings.model_validate(with_presets(section)["targets"]["mine"]).target("mine", 1)
    assert (target.precisions, target.opset) == (("int8",), 16)
    assert (target.builder.dla_core, target.builder.gpu_fallback) == (0, True)
    assert ENGINES["tensorrt"].family_of(target) == "tensorrt-dla"


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="preset 'orin-nan' is unknown; did you mean 'orin-nano'"):
        TargetSettings.model_validate(with_preset({"preset": "orin-nan", "runtime": "tensorrt"}))


def test_the_command_says_of_every_preset_what_this_machine_can_do() -> None:
    document = json.loads(invoke("targets", "--json").stdout)["targets"]
    assert set(document) == set(PRESETS)
    assert document["cpu"]["here"] == "build and run"
    for name, each in document.items():
        target = target_of_preset(name)
        assert each["why_not_build"] == ENGINES[target.runtime].why_not_build(target)
    shown = invoke("targets").stdout
    assert all(name in shown for name in PRESETS)


@pytest.mark.parametrize("option", ["strip_weights", "refit", "version_compatible", "reproducible"])
def test_what_tensorrt_rtx_cannot_do_is_refused_before_the_build(option: str) -> None:
    said = what_rtx_refuses(with_options(TARGET, **{option: True}))
    assert said is not None
    assert said.startswith(f"TensorRT-RTX has no {option}: ")


@pytest.mark.parametrize(
    ("target", "version", "said"),
    [
        (with_options(reproducible=True), "10.3.0", "name its file with timing_cache"),
        (with_options(reproducible=True, timing_cache="{device}"), "10.3.0", "takes every tactic from one file"),
        (with_options(gpu_fallback=True), "10.3.0", "name the DLA with dla_core, or take it out"),
        (with_options(dla_core=0), "10.13.0", "TensorRT 10.13.0 has no DLA, which ended with 10.7"),
        (with_options(dla_core=0), "11.1.0", "has no DLA"),
        (with_options(replace(ORIN, precisions=("fp32",)), dla_core=0), None, "FP16 and INT8 alone; take 'fp32' out"),
        (with_options(replace(ORIN, compute_capabilities=("11.0",)), dla_core=0), None, "Jetson Thor has no DLA"),
        (with_options(dla_core=0, hardware_compatibility="ampere_plus"), None, "loads on its own device alone"),
    ],
)
def test_what_no_tensorrt_device_does_is_refused_with_the_way_out(
    target: Target, version: str | None, said: str
) -> None:
    assert said in str(what_tensorrt_refuses(target, version))


@pytest.mark.parametrize(
    ("version", "int8"), [("10.3.0", "ranges"), ("10.7.0", "ranges"), ("11.4.1", "qdq"), (None, "qdq")]
)
def test_a_dla_is_not_refused_where_there_may_be_one(version: str | None, int8: str) -> None:
    assert what_tensorrt_refuses(with_options(replace(ORIN, int8=int8), dla_core=1, gpu_fallback=True), version) is None


@needs_tensorrt_rtx
def test_the_builder_is_asked_back_for_the_optimization_level_and_tf32(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights())
    built = RTX.build(graph, "tf32", with_options(TARGET, optimization_level=1), tmp_path / "e.plan")
    assert (built.settings["optimization_level"], built.settings["tf32"]) == (1, True)
    assert RTX.build(graph, "fp32", TARGET, tmp_path / "f.plan").settings["tf32"] is False


@needs_tensorrt_rtx
def test_an_engine_has_as_many_profiles_as_were_asked_for(tmp_path: Path) -> None:
    target = replace(TARGET, more_profiles=({"batch": AxisProfile(16, 32, 32)},))
    built = RTX.build(written(tmp_path, PLAIN, weights()), "fp32", target, tmp_path / "e.plan")
    sizes = [profile["batch"] for profile in built.settings["profiles"]]
    assert sizes == [{"min": 1, "opt": 2, "max": 4}, {"min": 16, "opt": 32, "max": 32}]


@needs_tensorrt_rtx
def test_a_dla_that_this_machine_does_not_have_is_refused_by_the_build(tmp_path: Path) -> None:
    target = with_options(replace(TARGET, precisions=("fp16",)), dla_core=0)
    with pytest.raises(BuildFailed, match="TensorRT-RTX has no dla_core: a Jetson's DLA is for the runtime 'tensorrt'"):
        RTX.build(written(tmp_path, PLAIN, weights()), "fp16", target, tmp_path / "e.plan")


def test_profiles_widen_the_batches_that_a_target_takes_and_name_no_fixed_axis() -> None:
    profiles = ({"batch": {"min": 100, "opt": 100, "max": 128}, "length": {"min": 1, "opt": 2, "max": 3}},)
    settings = TargetSettings.model_validate({"runtime": "tensorrt-rtx", "profiles": profiles})
    assert [settings.takes_batch(size) for size in (64, 65, 100, 129)] == [True, False, True, False]
    assert unused_profiles(settings, ("batch",)) == [
        "axes.length is for an axis that [export] leaves fixed; take it out, or add 'length' to [export] dynamic"
    ]


def test_a_graph_newer_than_the_target_reads_is_converted(tmp_path: Path) -> None:
    graph, target = written(tmp_path, PLAIN, weights()), Target("old", "onnxruntime", opset=17)
    wanted = Wanted("fp32", graph, tmp_path / "e.onnx")
    built = built_engine(ENGINES["onnxruntime"], wanted, target, QuietProgress(), Cancellation())
    assert built.log[0] == "converted to opset 17"
    assert opset_of(graph) > 17


class FakeCache:
    """What TensorRT makes of a timing cache's bytes: entries, one a line."""

    def __init__(self, data: bytes) -> None:
        self.entries = set(data.split())

    def combine(self, input_cache: FakeCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.entries |= input_cache.entries
        return True

    def serialize(self) -> bytes:
        return b"\n".join(sorted(self.entries))


class FakeConfig:
    """Takes caches of its own device alone, and times what is not in them."""

    def __init__(self, times: bytes) -> None:
        self.cache, self.times = FakeCache(b""), times

    def create_timing_cache(self, data: bytes) -> FakeCache:
        return FakeCache(data)

    def set_timing_cache(self, cache: FakeCache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return not ignore_mismatch and b"another-gpu" not in cache.entries

    def get_timing_cache(self) -> FakeCache:
        self.cache.entries.add(self.times)
        return self.cache


class FakeTensorRT:
    __name__, __version__ = "tensorrt", "10.3.0"


def test_builds_share_what_they_have_timed_even_side_by_side(tmp_path: Path) -> None:
    file, trt = tmp_path / "caches" / "orin.timing", FakeTensorRT()
    first, second = FakeConfig(b"conv-1"), FakeConfig(b"conv-2")
    take_timing_cache(trt, first, file, must_exist=False)
    take_timing_cache(trt, second, file, must_exist=False)
    keep_timing_cache(first, file)
    keep_timing_cache(second, file)
    assert take_timing_cache(trt, first, file, must_exist=True) == sha256_of_file(file)
    assert file.read_bytes().split() == [b"conv-1", b"conv-2"]


def test_each_device_and_version_gets_a_timing_cache_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    trt, orin = FakeTensorRT(), replace(this_machine(), board="NVIDIA Jetson AGX Orin Developer Kit", gpus=())
    monkeypatch.setattr(timing_cache, "this_machine", lambda: orin)
    name = "caches/{device}-{version}.timing"
    assert timing_cache_file(trt, name) == Path("caches/NVIDIA-Jetson-AGX-Orin-Developer-Kit-10.3.0.timing")
    gpu = Gpu("NVIDIA H100 80GB HBM3", "9.0", None, None)
    monkeypatch.setattr(timing_cache, "this_machine", lambda: replace(orin, gpus=(gpu,)))
    assert timing_cache_file(trt, name) == Path("caches/NVIDIA-H100-80GB-HBM3-10.3.0.timing")
    assert timing_cache_file(trt, "orin.timing") == Path("orin.timing")


def test_a_timing_cache_of_another_device_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    file, trt = tmp_path / "other.timing", FakeTensorRT()
    with pytest.raises(BuildFailed, match="there is no such timing cache, and a reproducible build takes every tactic"):
        take_timing_cache(trt, FakeConfig(b""), file, must_exist=True)
    file.write_bytes(b"another-gpu")
    with pytest.raises(BuildFailed, match=r"tensorrt 10\.3\.0 does not take this timing cache"):
        take_timing_cache(trt, FakeConfig(b""), file, must_exist=False)
    assert file.read_bytes() == b"another-gpu"
