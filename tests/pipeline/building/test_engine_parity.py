"""Engines beside the graphs that they were built from: what runs here is compared, what answers otherwise fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from small_training import CLASSES, arrays, context_in, invoke, save_npz, splits_in

from engines import ENGINES
from engines.base import UINT8_NHWC, BuiltEngine, Target
from engines.onnxruntime import OnnxRuntime
from pipeline.artifact import Artifacts, Graph
from pipeline.building.builds import Wanted, built_engine
from pipeline.building.engine_parity import EngineParity, _Error, _error, _problems, not_run
from pipeline.building.fleet import TargetBuilt, images_of
from pipeline.building.fleet_parity import Compared, compared
from pipeline.building.random_parity import random_parity
from pipeline.errors import NotAcceptable
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.tasks import TASKS

CPU = Target("cpu", "onnxruntime")
CAMERA = Target("camera", "onnxruntime", input=UINT8_NHWC)
NETWORK = """<ir_version: 10, opset_import: ["" : 18]> g (float[N,1,8,8] input) => (float[N,3] logits) {
  [flat] flat = Flatten(input) [head] logits = MatMul(flat, w)
}"""
EXACT = _Error(0.0, 1.0, 200.0)


def graph_in(folder: Path, weights: NDArray[np.float32]) -> Path:
    model = onnx.parser.parse_model(NETWORK)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((64, CLASSES)).astype(np.float32)


def inputs_in(folder: Path) -> Artifacts:
    """Images of bytes, and a graph of them."""
    data = arrays()
    data["images"] = np.clip(data["images"] * 100 + 60, 0, 255).astype(np.uint8)
    save_npz(folder / "images.npz", data)
    preprocess = {"resize": [10, 10], "crop": [8, 8], "scale": 0.01, "mean": [0.5], "std": [0.3]}
    splits = splits_in(folder, npz="images.npz", preprocess=preprocess)
    return Artifacts([splits, Graph(graph_in(folder / "export", weights()).parent)])


def built(graph: Path, target: Target, to: Path, inputs: Artifacts) -> BuiltEngine:
    wanted = Wanted("fp32", graph, to, preprocess=images_of(inputs))
    return built_engine(ENGINES[target.runtime], wanted, target, QuietProgress(), Cancellation())


def compare_one(folder: Path, target: Target, engine: BuiltEngine, inputs: Artifacts) -> Compared:
    return compared([TargetBuilt(target, {"fp32": engine}, None)], inputs, context_in(folder))


@pytest.mark.parametrize("target", [CPU, CAMERA])
def test_an_engine_answers_as_its_graph_on_samples_of_the_calibration_split(target: Target, tmp_path: Path) -> None:
    inputs = inputs_in(tmp_path)
    engine = built(inputs[Graph].model, target, tmp_path / "e.onnx", inputs)
    found = compare_one(tmp_path, target, engine, inputs)
    parity = found.parity[target.name, "fp32"]
    assert (parity.state, parity.samples, parity.decisions, parity.agreement) == ("same", 6, 6, 1.0)
    assert parity.max_abs_error is not None
    assert parity.max_abs_error < 1e-4
    assert found.fleet[0].engines["fp32"] is engine


@pytest.mark.parametrize("target", [CPU, CAMERA])
def test_an_engine_that_answers_otherwise_is_removed_and_fails_its_target(target: Target, tmp_path: Path) -> None:
    inputs = inputs_in(tmp_path)
    other = graph_in(tmp_path / "other", weights() * np.float32(1.01))
    engine = built(other, target, tmp_path / "e.onnx", inputs)
    found = compare_one(tmp_path, target, engine, inputs)
    error = found.fleet[0].engines["fp32"]
    assert isinstance(error, NotAcceptable)
    assert f"target {target.name}, fp32: on the calibration split the engine does not answer as its graph" in str(error)
    assert "output 'logits' differs by" in str(error)
    assert found.parity[target.name, "fp32"].state == "differs"
    assert not engine.file.exists()


def test_an_engine_that_does_not_run_though_it_should_fails_its_target(tmp_path: Path) -> None:
    inputs = inputs_in(tmp_path)
    engine = replace(built(inputs[Graph].model, CPU, tmp_path / "e.onnx", inputs), sha256="0" * 64)
    error = compare_one(tmp_path, CPU, engine, inputs).fleet[0].engines["fp32"]
    assert "it was built, and does not run here: " in str(error)


def test_a_graph_that_onnxruntime_has_no_kernel_for_compares_with_nothing(tmp_path: Path) -> None:
    inputs = inputs_in(tmp_path)
    engine = built(inputs[Graph].model, CPU, tmp_path / "e.onnx", inputs)
    text = """<ir_version: 10, opset_import: ["" : 18]> g (bfloat16[N,1] x) => (bfloat16[N,1] y) { y = Erf(x) }"""
    onnx.save(onnx.parser.parse_model(text), inputs[Graph].model)
    found = compare_one(tmp_path, CPU, engine, inputs)
    parity = found.parity["cpu", "fp32"]
    assert parity.state == "not_run"
    assert "there is nothing to compare with: model.onnx: onnxruntime does not run it on a CPU: " in parity.reason
    assert found.fleet[0].engines["fp32"] is engine


@pytest.mark.skipif(
    ENGINES["tensorrt-rtx"].why_not_run(Target("rtx", "tensorrt-rtx")) is None, reason="this machine has a GPU"
)
def test_an_engine_that_cannot_run_here_says_why() -> None:
    target = Target("rtx", "tensorrt-rtx")
    found = not_run(target)
    assert found is not None
    assert found.reason == f"not run here: {ENGINES['tensorrt-rtx'].why_not_run(target)}"
    assert found.sentence() == f"answers not compared with its graph's: {found.reason}"


def test_another_shape_and_what_is_not_finite_are_far_away() -> None:
    ones = np.ones((2, 3), np.float32)
    for other in (ones[:1], np.full_like(ones, np.nan), np.full_like(ones, np.inf)):
        assert _error([(ones, other)]).sqnr_db < -100
    assert _error([(np.full_like(ones, np.nan), np.full_like(ones, np.nan))]).largest == 0


def test_an_onnx_file_is_compared_on_random_inputs_and_only_fp32_is_judged(tmp_path: Path) -> None:
    graph, other = graph_in(tmp_path / "a", weights()), graph_in(tmp_path / "b", weights() * np.float32(2))
    wanted = Wanted("fp32", other, tmp_path / "e.onnx")
    engine = built_engine(ENGINES["onnxruntime"], wanted, CPU, QuietProgress(), Cancellation())
    assert random_parity(engine, "fp32", CPU, other, None).state == "same"
    assert random_parity(engine, "fp32", CPU, graph, None).state == "differs"
    recorded = random_parity(engine, "int8", CPU, graph, None)
    assert recorded.state == "recorded"
    assert "random inputs judge FP32 alone, and output 'logits' has 0.0 dB" in recorded.reason


def test_the_command_writes_no_engine_that_answers_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, other = graph_in(tmp_path / "a", weights()), graph_in(tmp_path / "b", weights() * np.float32(2))
    kernel = OnnxRuntime.build

    def wrong(self: OnnxRuntime, _: Path, *asked: Any) -> BuiltEngine:
        return kernel(self, other, *asked)

    monkeypatch.setattr(OnnxRuntime, "build", wrong)
    outcome = invoke("build", graph, "--target", "cpu", "--out", tmp_path / "e.onnx")
    assert outcome.exit_code == 1
    assert "on random inputs the engine does not answer as the graph does: output 'logits' differs by" in outcome.stderr
    assert not (tmp_path / "e.onnx").exists()


def test_a_graph_of_open_axes_has_nothing_random_to_be_compared_on(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[N,L] x) => (float[N,L] y) { y = Neg(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    wanted = Wanted("fp32", tmp_path / "model.onnx", tmp_path / "e.onnx")
    engine = built_engine(ENGINES["onnxruntime"], wanted, CPU, QuietProgress(), Cancellation())
    found = random_parity(engine, "fp32", CPU, tmp_path / "model.onnx", None)
    assert found.state == "not_run"
    assert "there is nothing to compare on: input 'x' has shape [any, any]" in found.reason


@pytest.mark.parametrize(
    ("decisions", "different", "fails"), [(12, 1, False), (12, 2, True), (1000, 10, False), (1000, 11, True)]
)
def test_one_decision_in_a_hundred_may_differ_and_one_always(decisions: int, different: int, fails: bool) -> None:
    same = np.arange(decisions) >= different
    said = list(_problems("int8", {"logits": EXACT}, same))
    assert said == (
        [f"{different} of {decisions} decisions are not its graph's; 99% must be, and one may always differ"]
        if fails
        else []
    )


@pytest.mark.parametrize(
    ("precision", "error", "fails"),
    [
        ("fp32", _Error(0.9e-3, 1.0, 0.0), False),
        ("fp32", _Error(1.1e-3, 1.0, 99.0), True),
        ("int8", _Error(0.5, 1.0, 20.1), False),
        ("fp16", _Error(0.5, 1.0, 19.9), True),
    ],
)
def test_float_is_held_to_its_largest_error_and_the_rest_to_its_noise(
    precision: str, error: _Error, fails: bool
) -> None:
    assert bool(list(_problems(precision, {"y": error}, np.zeros(0, np.bool_)))) == fails


def outputs(*rows: list[float], name: str = "logits") -> dict[str, NDArray[np.float32]]:
    return {name: np.array(rows, np.float32)}


def test_each_task_says_which_decisions_are_the_same() -> None:
    one, two = outputs([1, 2, 0], [5, 1, 1]), outputs([1, 3, 0], [1, 5, 1])
    assert TASKS["classification"].same_decisions(one, two).tolist() == [True, False]
    present, absent = outputs([1, -1]), outputs([2, 1])
    assert TASKS["multi-label"].same_decisions(present, absent).tolist() == [True, False]
    pixels = {"logits": np.array([[[[1, 0]], [[0, 1]]]], np.float32)}
    assert TASKS["segmentation"].same_decisions(pixels, {"logits": pixels["logits"][:, ::-1]}).tolist() == [False] * 2
    assert TASKS["regression"].same_decisions(outputs([1.0], name="values"), outputs([9.0], name="values")).size == 0


def test_what_is_not_finite_is_the_same_decision_as_nothing() -> None:
    broken = outputs([np.nan, 1, 0])
    assert TASKS["classification"].same_decisions(broken, broken).tolist() == [False]


def test_a_run_records_the_comparison_with_each_engine_and_in_its_manifest(finished_run: tuple[Path, Path]) -> None:
    folder = finished_run[1] / "05-build"
    for record in json.loads((folder / "engines.json").read_text(encoding="utf-8")):
        parity = EngineParity(**record["parity"])
        assert (parity.state, parity.samples, parity.decisions) == ("same", 32, 32)
        manifest = json.loads((folder / f"{record['file']}.manifest.json").read_text(encoding="utf-8"))
        assert manifest["predicate"]["parity"] == record["parity"]
