"""The build stage: what it refuses before anything runs, and what it says of a target that cannot be built here."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import onnx
import onnx.parser
import pytest
from pydantic import ValidationError
from small_training import context_in, invoke, recipe_in
from tensorrt_graphs import needs_tensorrt_rtx

from engines import ENGINES
from engines.base import Target
from engines.errors import EngineError
from pipeline.artifact import Artifacts, Graph, Graphs
from pipeline.errors import MachineLacks, NotAcceptable, RecipeError
from pipeline.files import atomic
from pipeline.recipe import built_in_recipes, load_recipe, recipe_from_text
from pipeline.stages import build as build_module
from pipeline.stages.build import Build
from pipeline.stages.calibrate import Calibrate

WITHOUT_DRIVER = pytest.mark.skipif(
    ENGINES["tensorrt"].why_not_build(Target("here", "tensorrt")) is None, reason="this machine builds with tensorrt"
)


def stage(**target: object) -> Build:
    return Build.model_validate({"targets": {"edge": target}})


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX has wheels for x86-64 alone")
def test_where_there_is_a_wheel_tensorrt_rtx_is_installed_so_no_test_of_it_is_skipped() -> None:
    assert ENGINES["tensorrt-rtx"].why_not_build(Target("portable", "tensorrt-rtx")) is None


@needs_tensorrt_rtx
@pytest.mark.parametrize("optional", [False, True])
def test_a_compute_capability_that_no_machine_builds_for_is_a_mistake_of_the_recipe(optional: bool) -> None:
    build = stage(runtime="tensorrt-rtx", compute_capabilities=("9.9",), optional=optional)
    said = r"^\[build\.targets\.edge\] TensorRT-RTX [\d.]+ does not build for compute capability 9\.9; choose from 7\.5"
    with pytest.raises(RecipeError, match=said):
        build.require()


HEIGHT = "height = { min = 16, opt = 32, max = 128 }, "


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            (HEIGHT, ""),
            "axis 'height' is dynamic ([export] dynamic), and tensorrt-rtx has to know its sizes: "
            "add axes.height = { min = …, opt = …, max = … }",
        ),
        (
            ('"height", "width"]', '"width"]'),
            "axes.height is for an axis that [export] leaves fixed; take it out, or add 'height' to [export] dynamic",
        ),
    ],
)
def test_sizes_that_do_not_match_the_open_axes_of_the_export_are_a_mistake_of_the_recipe(
    change: tuple[str, str], said: str, tmp_path: Path
) -> None:
    text = built_in_recipes()["digit-canvases"]
    assert change[0] in text
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(text.replace(*change), tmp_path, "own.toml")
    assert str(caught.value) == f"own.toml: [build.targets.rtx-portable] {said}"


@needs_tensorrt_rtx
def test_the_command_passes_the_sizes_of_each_axis_on(tmp_path: Path) -> None:
    graph = '<ir_version: 8, opset_import: ["" : 18]> own (float[N, H, W] x) => (float[N, H, W] y) { y = Relu (x) }'
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "own.onnx")
    asked = ("build", tmp_path / "own.onnx", "--target", "tensorrt-rtx", "--json")
    outcome = invoke(*asked, "--axis", "H=4:8:16", "--axis", "W=1:2:4")
    assert outcome.exit_code == 0
    sizes = {"min": 1, "opt": 8, "max": 64}
    assert json.loads(outcome.stdout)["settings"]["profiles"] == [
        {"H": {"min": 4, "opt": 8, "max": 16}, "W": {"min": 1, "opt": 2, "max": 4}, "batch": sizes}
    ]
    outcome = invoke(*asked, "--axis", "H=4:8:16")
    assert outcome.exit_code == 1
    assert "axis 'W' is dynamic and target 'tensorrt-rtx' does not say its sizes" in outcome.stderr


@WITHOUT_DRIVER
def test_a_target_that_this_machine_cannot_build_stops_the_run_before_it_starts() -> None:
    said = r"^\[build\.targets\.edge\] .*\(or set optional = true\)$"
    with pytest.raises(MachineLacks, match=said):
        stage(runtime="tensorrt").require()


@WITHOUT_DRIVER
def test_an_optional_target_that_cannot_be_built_here_is_part_of_the_key_so_that_it_is_built_once_it_can_be() -> None:
    build = stage(runtime="tensorrt", optional=True)
    build.require()
    why = build.surroundings()["not_built_here"]["edge"]
    assert why == ENGINES["tensorrt"].why_not_build(Target("edge", "tensorrt"))


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints",
        "engines.json",
        "audit.json",
        "inputs.json",
        "preprocess.json",
        "classes.json",
        "manifest.json",
        "log.txt",
    ],
)
def test_a_target_is_not_called_as_a_file_of_the_engines_folder(name: str, tmp_path: Path) -> None:
    path = recipe_in(tmp_path, ("[build.targets.cpu]", f'[build.targets."{name}"]'))
    said = rf"\[build\] targets\.{name}: '{name}' names something else in the folder of the engines; call the target"
    with pytest.raises(RecipeError, match=said):
        load_recipe(str(path))


def test_another_gpu_or_driver_builds_a_tensorrt_engine_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "compute_capability", lambda: "8.6")
    monkeypatch.setattr(build_module, "driver_version", lambda: "12.6")
    at_hand = stage(runtime="tensorrt", optional=True).surroundings()
    assert at_hand["gpu"] == {"compute_capability": "8.6", "driver": "12.6"}
    assert "gpu" not in stage(runtime="onnxruntime").surroundings()
    assert "gpu" not in stage(runtime="tensorrt-rtx", optional=True).surroundings()


def test_the_key_holds_the_onnxruntime_that_is_imported_whatever_its_distribution_is_called() -> None:
    found = ENGINES["onnxruntime"].versions()
    assert found["onnxruntime"]
    assert stage(runtime="onnxruntime").surroundings()["onnxruntime"] == found
    assert Calibrate().surroundings()["onnxruntime"] == found


def test_what_writes_the_graphs_is_in_the_key() -> None:
    assert "onnx" in Build.tools
    assert {"onnx", "onnx-ir", "onnxscript"} <= set(Calibrate.tools)


def test_a_cpu_that_no_placement_is_known_for_is_told_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(
        NotAcceptable, match=r"family 'cpu': no INT8 placement is known for riscv64 CPUs; name a"
    ) as caught:
        Calibrate().surroundings()
    assert isinstance(caught.value.__cause__, EngineError)


@needs_tensorrt_rtx
def test_a_target_that_asks_for_fp16_is_told_why_there_is_no_such_graph(tmp_path: Path) -> None:
    atomic.write_json(
        tmp_path / "placement.json", {"missing_graphs": {"fp16.onnx": "no FP16 graph, because it holds a sequence"}}
    )
    inputs = Artifacts([Graph(tmp_path), Graphs(tmp_path)])
    said = r"^\[build\.targets\.edge\] no FP16 graph, because it holds a sequence; take 'fp16' out of precisions$"
    with pytest.raises(NotAcceptable, match=said):
        stage(runtime="tensorrt-rtx", precisions=("fp16",)).run(inputs, tmp_path, context_in(tmp_path))


def test_int8_for_turing_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ValidationError, match=r"targets\.edge: the INT8 graphs .* take 'int8' or '7\.5' out"):
        stage(runtime="tensorrt-rtx", precisions=("fp16", "int8"), compute_capabilities=("7.5",))
    stage(runtime="tensorrt-rtx", precisions=("fp16",), compute_capabilities=("7.5",))
