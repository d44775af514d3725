"""INT8 by ranges beside the FP32 graph, as TensorRT up to 10.x and its DLA take it; refused everywhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_tensorrt import ITensor
from fake_tensorrt_build import TENSORRT, IBuilderConfig, told_to
from pydantic import ValidationError
from small_training import context_in, invoke
from tensorrt_graphs import PLAIN, RTX, TARGET, needs_tensorrt_rtx, weights, written

from calibration.prepare import prepared
from calibration.ranges import ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from engines import ENGINES, cuda
from engines.base import BuiltEngine, Target
from engines.build_process import Build, built_apart
from engines.builder_options import BuilderOptions
from engines.errors import BuildFailed, EngineDamaged
from engines.tensorrt import TensorRT
from engines.tensorrt.module import RuntimeModule
from engines.tensorrt.refusals import what_rtx_refuses, what_tensorrt_refuses
from pipeline.artifact import Artifacts, Graph, Graphs
from pipeline.building.builds import engine_line
from pipeline.building.fleet import built_fleet, graph_of, ranges_of
from pipeline.building.target_presets import with_preset
from pipeline.building.target_settings import TargetSettings
from pipeline.commands.targets import target_of_preset
from pipeline.quantizing.settings import QuantizationSettings
from pipeline.quantizing.tensorrt_ranges import MEASURED_GRAPH, RANGE_TABLE, for_tensorrt

ORIN = Target("orin", "tensorrt", ("int8", "int8+fp16"), int8="ranges")
ENGINE = TensorRT()


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with TensorRT 10.3 and a GPU, as far as a build asks."""
    monkeypatch.setattr(RuntimeModule, "load", lambda _: TENSORRT)
    monkeypatch.setattr(RuntimeModule, "version", lambda _: TENSORRT.__version__)
    monkeypatch.setattr(cuda, "why_no_gpu", lambda: None)
    monkeypatch.setattr(cuda, "compute_capability", lambda: "8.7")
    monkeypatch.setattr(TensorRT, "builds_apart", False)
    monkeypatch.setattr(TensorRT, "why_not_run", lambda *_: "this GPU runs nothing")


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    """A folder with the FP32 graph that was measured and its table of ranges."""
    model = prepared(onnx.load(written(tmp_path, PLAIN, weights())))
    images = np.random.default_rng(1).standard_normal((4, 16, 8, 8)).astype(np.float32)
    ranges = ranges_from_sketches(collect(model, [Batch(list("abcd"), {"x": images})], threads=1), "minmax")
    settings = QuantizationSettings("minmax", ("tensorrt-dla",))
    beside = for_tensorrt(model, ranges, settings, tmp_path / "model.onnx")
    assert beside is not None
    beside.write(tmp_path)
    return tmp_path


def build(folder: Path, precision: str, target: Target = ORIN) -> BuiltEngine:
    return ENGINE.build(folder / MEASURED_GRAPH, precision, target, folder / "e.plan", ranges=folder / RANGE_TABLE)


@pytest.mark.usefixtures("jetson")
@pytest.mark.parametrize(("precision", "flags"), [("int8", ["INT8", "TF32"]), ("int8+fp16", ["FP16", "INT8", "TF32"])])
def test_int8_is_built_from_the_float_graph_and_a_range_for_every_tensor(
    calibrated: Path, precision: str, flags: list[str]
) -> None:
    built = build(calibrated, precision)
    told = told_to(built.file)
    amax = {name: each["amax"] for name, each in json.loads((calibrated / RANGE_TABLE).read_text())["tensors"].items()}
    assert (told["strongly_typed"], told["flags"]) == (False, flags)
    assert {name: bound[1] for name, bound in told["ranges"].items()} == pytest.approx(amax)
    settings = dict(built.settings)
    assert (settings["strongly_typed"], settings["int8"], settings["fp16"]) == (False, True, precision == "int8+fp16")
    assert (settings["ranges"]["tensors"], settings["ranges"]["by_name"], settings["ranges"]["method"]) == (
        7,
        7,
        "minmax",
    )
    assert "INT8 operands on 2 of 2 products; 7 of 7 float tensors have a range: 7 by name" in engine_line("e", built)


@pytest.mark.usefixtures("jetson")
def test_other_precisions_of_such_a_target_stay_strongly_typed(calibrated: Path) -> None:
    built = ENGINE.build(
        calibrated / MEASURED_GRAPH, "fp16", replace(ORIN, precisions=("fp16",)), calibrated / "h.plan"
    )
    assert told_to(built.file)["strongly_typed"] is True
    assert told_to(built.file)["flags"] == ["TF32"]
    assert "ranges" not in built.settings


@pytest.mark.usefixtures("jetson")
def test_a_tensor_without_a_range_fails_the_build_by_name(calibrated: Path) -> None:
    document = json.loads((calibrated / RANGE_TABLE).read_text())
    del document["tensors"]["c"]
    (calibrated / RANGE_TABLE).write_text(json.dumps(document))
    with pytest.raises(
        BuildFailed, match=r"fp32\.onnx: 1 tensors .* 'c', written by CONVOLUTION layer 'conv2', is in no"
    ):
        build(calibrated, "int8")
    assert not (calibrated / "e.plan").exists()


@pytest.mark.usefixtures("jetson")
def test_a_flag_or_a_range_that_tensorrt_does_not_take_fails_the_build(
    calibrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IBuilderConfig, "_refused", {"INT8"})
    with pytest.raises(BuildFailed, match="the builder did not take its settings: int8 reads False, not True"):
        build(calibrated, "int8")
    monkeypatch.setattr(IBuilderConfig, "_refused", frozenset())
    monkeypatch.setattr(ITensor, "set_dynamic_range", lambda *_: False)
    with pytest.raises(BuildFailed, match="TensorRT did not take the range"):
        build(calibrated, "int8")


@pytest.mark.usefixtures("jetson")
def test_a_table_of_another_file_and_one_for_nobody_are_refused(calibrated: Path) -> None:
    onnx.save(onnx.load(calibrated / "model.onnx"), calibrated / MEASURED_GRAPH)
    with pytest.raises(BuildFailed, match="build from that file, or calibrate this one"):
        build(calibrated, "int8")
    with pytest.raises(
        BuildFailed, match=r"builds int8 with ranges beside the FP32 graph, and got none; give the table"
    ):
        ENGINE.build(calibrated / MEASURED_GRAPH, "int8", ORIN, calibrated / "e.plan")
    with pytest.raises(BuildFailed, match="orin builds int8 from the graph alone; leave them out"):
        build(calibrated, "int8", replace(ORIN, int8="qdq"))
    (calibrated / RANGE_TABLE).write_text("[]")
    with pytest.raises(EngineDamaged, match="is no table of ranges"):
        build(calibrated, "int8")


@pytest.mark.usefixtures("jetson")
def test_the_dla_of_a_jetson_gets_the_ranges_of_the_recipe_in_its_own_opset(calibrated: Path) -> None:
    target = target_of_preset("agx-orin-dla")
    (calibrated / "placement.json").write_text(json.dumps({"missing_graphs": {}}))
    (calibrated / "modules.json").write_text("{}")
    (calibrated / "fp16.onnx").write_bytes((calibrated / "model.onnx").read_bytes())
    inputs, to = Artifacts([Graph(calibrated), Graphs(calibrated)]), calibrated / "engines"
    to.mkdir()
    [found] = built_fleet(inputs, [target], to, context_in(calibrated), None)
    engine = found.engines["int8+fp16"]
    assert isinstance(engine, BuiltEngine), engine
    told = told_to(engine.file)
    assert (told["device"], told["flags"]) == ("DLA", ["FP16", "GPU_FALLBACK", "INT8", "TF32"])
    assert all(bound is not None for bound in told["ranges"].values())
    assert engine.log[0] == "converted to opset 17"
    assert graph_of(inputs, target, "int8+fp16").name == MEASURED_GRAPH
    assert ranges_of(inputs, target, "fp16") is None


@needs_tensorrt_rtx
def test_the_ranges_reach_the_process_that_builds(calibrated: Path) -> None:
    asked = Build(calibrated / MEASURED_GRAPH, "int8", calibrated / "e.plan", calibrated / RANGE_TABLE)
    [said] = built_apart(TARGET, [asked])
    assert "ranges are for INT8 of a target with int8" in str(said)
    with pytest.raises(BuildFailed, match="TensorRT-RTX takes no ranges beside a graph; set int8 = "):
        RTX.build(
            asked.graph, "int8", replace(TARGET, precisions=("int8",), int8="ranges"), asked.to, None, asked.ranges
        )


@pytest.mark.parametrize(
    ("target", "version", "said"),
    [
        (ORIN, "11.0.0", "TensorRT 11.0.0 takes no ranges beside a graph, which ended with 10.x; set int8 = "),
        (ORIN, "10.16.1", None),
        (ORIN, None, None),
        (replace(ORIN, builder=BuilderOptions(dla_core=0)), "10.3.0", None),
        (
            replace(ORIN, int8="qdq", builder=BuilderOptions(dla_core=0)),
            "10.3.0",
            "the DLA of TensorRT 10.3.0 takes no Q/DQ pairs: its INT8 comes from ranges beside the FP32 graph; add",
        ),
        (replace(ORIN, int8="qdq", builder=BuilderOptions(dla_core=0)), "11.4.1", None),
    ],
)
def test_ranges_are_for_tensorrt_up_to_10_and_all_that_its_dla_takes(
    target: Target, version: str | None, said: str | None
) -> None:
    found = what_tensorrt_refuses(target, version)
    assert found is None if said is None else str(found).startswith(said)


def test_runtimes_without_implicit_int8_refuse_it_before_the_build(tmp_path: Path) -> None:
    assert "TensorRT-RTX takes no ranges beside a graph" in str(what_rtx_refuses(replace(ORIN, runtime="tensorrt-rtx")))
    with pytest.raises(BuildFailed, match="onnxruntime takes no ranges beside a graph"):
        ENGINES["onnxruntime"].build(tmp_path / "m.onnx", "int8", ORIN, tmp_path / "e.onnx")


@pytest.mark.usefixtures("jetson")
def test_the_command_builds_with_a_table_and_asks_for_one(calibrated: Path) -> None:
    graph, plan = calibrated / MEASURED_GRAPH, calibrated / "e.plan"
    asked = ("build", graph, "--target", "agx-orin-dla", "--out", plan, "--precision")
    done = invoke(*asked, "int8", "--ranges", calibrated / RANGE_TABLE)
    assert done.exit_code == 0, done.stderr
    assert "7 of 7 float tensors have a range" in done.stdout
    assert told_to(plan)["flags"] == ["GPU_FALLBACK", "INT8", "TF32"]
    predicate = json.loads((calibrated / "e.plan.manifest.json").read_text())["predicate"]
    assert [each["name"] for each in predicate["made_from"]] == ["graph", "ranges"]
    assert (predicate["trtexec"], predicate["settings"]["ranges"]["tensors"]) == (None, 7)
    missing, for_none = invoke(*asked, "int8"), invoke(*asked, "fp16", "--ranges", calibrated / RANGE_TABLE)
    assert (missing.exit_code, for_none.exit_code) == (2, 2)
    assert "builds INT8 from the FP32 graph and a table of its ranges; give it with --ranges" in missing.stderr
    assert "--ranges is for int8 and int8+fp16; leave it out, or name one with --precision" in for_none.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"runtime": "tensorrt", "precisions": ("int8",), "int8": "range"}, "did you mean 'ranges'"),
        ({"runtime": "tensorrt", "precisions": ("fp16",), "int8": "ranges"}, "is for int8 and int8\\+fp16; add one"),
        ({"runtime": "onnxruntime", "precisions": ("int8",), "int8": "ranges"}, "int8 is for GPUs"),
    ],
)
def test_a_target_says_ranges_where_they_mean_something(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TargetSettings.model_validate(settings)


def test_a_preset_brings_its_ranges_where_int8_is_built() -> None:
    def of(**said: object) -> str:
        return TargetSettings.model_validate(with_preset({"preset": "agx-orin-dla", **said})).int8

    assert (of(), of(precisions=("fp16",)), of(int8="qdq")) == ("ranges", "qdq", "qdq")
