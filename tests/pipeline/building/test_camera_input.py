"""Camera input: engines that take the bytes of images, and answer as those that take the normalized image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from small_training import context_in, dataset_in, invoke, recipe_in, save_npz, splits_in
from tensorrt_graphs import PLAIN, QUANTIZED, RTX, needs_tensorrt_rtx, quantization, weights, written

from calibration.float16 import in_16_bits
from calibration.float_types import BFLOAT16, HALF, FloatType
from engines import ENGINES
from engines.audit import summarize
from engines.base import UINT8_NHWC, Arrays, AxisProfile, BuiltEngine, Session, Target, TensorInfo
from pipeline.artifact import Artifacts
from pipeline.building import camera_input
from pipeline.building.builds import Wanted, built_engine
from pipeline.building.camera_input import with_camera_input
from pipeline.building.fed_session import FedSession, both_forms
from pipeline.building.target_settings import TargetSettings
from pipeline.data.preprocess import Preprocess
from pipeline.errors import DataRejected, NotAcceptable, RecipeError
from pipeline.exporting.parity import ReferenceSession
from pipeline.measuring.accuracy import TestSplit
from pipeline.models.interface import IMAGE
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.recipe import load_recipe
from pipeline.stages.build import Build

ONE = Preprocess(layout="hwc", scale=1 / 255, mean=(0.5,), std=(0.25,))
EACH = Preprocess(layout="hwc", mean=tuple(range(16)), std=tuple(range(1, 17)))
CAMERA = Target("camera", "onnxruntime", input=UINT8_NHWC)


def half(folder: Path, to: FloatType = HALF) -> Path:
    path = written(folder, PLAIN, weights())
    model = onnx.load(path)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node{index}"
    onnx.save(in_16_bits(onnx.shape_inference.infer_shapes(model), {}, to), path)
    return path


def graph_of(precision: str, folder: Path) -> Path:
    if precision == "fp16":
        return half(folder)
    if precision == "int8":
        return written(folder, QUANTIZED, weights() | quantization())
    return written(folder, PLAIN, weights())


def images(count: int = 3, shape: tuple[int, ...] = (8, 8, 16)) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("preprocess", [ONE, EACH, Preprocess(layout="hwc")])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_graph_answers_bytes_as_it_answers_the_normalized_image(
    precision: str, preprocess: Preprocess, tmp_path: Path
) -> None:
    graph = graph_of(precision, tmp_path)
    folded = with_camera_input(graph, preprocess, tmp_path / "folded.onnx")
    floats = np.stack([preprocess.apply(image) for image in images()])
    expected = ReferenceSession(graph, 1).run({"x": floats})["y"]
    np.testing.assert_array_equal(ReferenceSession(folded, 1).run({"x": images()})["y"], expected)


def test_the_first_quantization_stays_behind_the_normalization(tmp_path: Path) -> None:
    folded = onnx.load(with_camera_input(graph_of("int8", tmp_path), ONE, tmp_path / "folded.onnx"))
    operators = [node.op_type for node in folded.graph.node]
    assert operators[:6] == ["Cast", "Transpose", "Mul", "Sub", "Div", "QuantizeLinear"]
    assert operators[6:] == [node.op_type for node in onnx.load(graph_of("int8", tmp_path)).graph.node][1:]


@pytest.mark.parametrize("is_wrong", [False, True])
def test_in_front_of_a_graph_that_no_cpu_computes_the_normalization_is_tried_alone(
    is_wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = half(tmp_path, BFLOAT16)
    if is_wrong:
        monkeypatch.setattr(Preprocess, "normalized_bytes", lambda *_: np.zeros((16, 8, 8), np.float32))
        with pytest.raises(NotAcceptable, match="the normalized image differs by"):
            with_camera_input(graph, ONE, tmp_path / "folded.onnx")
        return
    folded = onnx.load(with_camera_input(graph, ONE, tmp_path / "folded.onnx"))
    assert folded.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_a_graph_of_a_fixed_batch_is_tried_at_that_batch(tmp_path: Path) -> None:
    graph = written(tmp_path, "y = Relu(x)", {}, x="5,1,4,4")
    folded = with_camera_input(graph, ONE, tmp_path / "folded.onnx")
    assert ReferenceSession(folded, 1).run({"x": images(5, (4, 4, 1))})["y"].shape == (5, 1, 4, 4)


def test_a_height_that_stays_open_is_open_in_the_engine(tmp_path: Path) -> None:
    graph = written(tmp_path, "y = Relu(x)", {}, x="N,3,H,W")
    folded = with_camera_input(graph, Preprocess(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 2.0)), tmp_path / "folded.onnx")
    dims = onnx.load(folded).graph.input[0].type.tensor_type.shape.dim
    assert [each.dim_param or each.dim_value for each in dims] == ["N", "H", "W", 3]


def test_a_read_inside_a_subgraph_gets_the_normalized_image_too(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> g (float[N,1,4,4] x) => (float[N,1,4,4] y) {
      yes = Constant<value = bool {1}>()
      y = If (yes) <then_branch = a () => (float[N,1,4,4] t) { t = Neg(x) },
                    else_branch = b () => (float[N,1,4,4] e) { e = Relu(x) }>
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    folded = with_camera_input(tmp_path / "model.onnx", ONE, tmp_path / "folded.onnx")
    found = ReferenceSession(folded, 1).run({"x": images(2, (4, 4, 1))})["y"]
    np.testing.assert_array_equal(found, -np.stack([ONE.apply(image) for image in images(2, (4, 4, 1))]))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("float[N,3,8,8] x, float[N,3,8,8] z", "is for graphs with one image as input, and it has x, z"),
        ("int64[N,3,8,8] x", "is for a float input of (batch, channels, height, width), and 'x' is int64 of 4"),
        ("float[N,8] x", "is for a float input of (batch, channels, height, width), and 'x' is float of 2 dimensions"),
        ("float[N,C,8,8] x", "input 'x' leaves its channels open; fix axis 1 when exporting"),
        ("float[N,2,8,8] x", "its images have 2 channels, preprocess.mean has 16 values; give one for all"),
    ],
)
def test_what_takes_no_single_image_is_refused(inputs: str, said: str, tmp_path: Path) -> None:
    dtype = inputs.split("[", maxsplit=1)[0]
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}) => ({dtype}[N,?,?,?] y) {{ y = Identity(x) }}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(RecipeError) as caught:
        with_camera_input(tmp_path / "model.onnx", EACH, tmp_path / "folded.onnx")
    assert said in str(caught.value)


def test_a_folded_graph_that_answers_otherwise_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = camera_input._steps

    def without_mean(preprocess: Preprocess) -> Iterator[Any]:
        return (each for each in steps(preprocess) if each[0] != "Sub")

    monkeypatch.setattr(camera_input, "_steps", without_mean)
    wanted = Wanted("fp32", graph_of("fp32", tmp_path), tmp_path / "e.onnx", preprocess=ONE)
    said = r"target camera, fp32: model\.onnx: with uint8-nhwc input, output 'y' differs by .*; leave 'input' out"
    with pytest.raises(NotAcceptable, match=said):
        built_engine(ENGINES["onnxruntime"], wanted, CAMERA, QuietProgress(), Cancellation())
    assert not (tmp_path / "e.onnx").exists()


def built(precision: str, target: Target, folder: Path) -> BuiltEngine:
    engine = ENGINES[target.runtime]
    wanted = Wanted(precision, graph_of(precision, folder), folder / f"{target.name}{engine.suffix}", preprocess=ONE)
    return built_engine(engine, wanted, target, QuietProgress(), Cancellation())


@needs_tensorrt_rtx
def test_tensorrt_takes_the_bytes_and_multiplies_in_int8_as_before(tmp_path: Path) -> None:
    batch = AxisProfile(1, 2, 4)
    floats = built("int8", Target("float", RTX.runtime, batch=batch), tmp_path)
    camera = built("int8", Target("camera", RTX.runtime, batch=batch, input=UINT8_NHWC), tmp_path)
    assert camera.log[0] == "takes uint8-nhwc: normalization is in the graph"
    assert camera.settings["shapes"][0]["x"]["max"] == [4, 8, 8, 16]
    assert "uint8" in {tensor.dtype for layer in camera.layers for tensor in layer.inputs if tensor.name == "x"}
    before, after = summarize(floats.layers), summarize(camera.layers)
    assert (after.int8, after.products, after.kernels) == (before.int8, before.products, before.kernels)
    assert after.int8 == 2


@given(st.integers(5, 9), st.integers(5, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_bytes_are_the_resized_image_rounded_channels_last(height: int, width: int, seed: int) -> None:
    preprocess = Preprocess(resize=(6, 7), crop=(4, 5), scale=0.5, mean=(3.0,))
    gray = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    found = preprocess.sized_bytes(gray)
    assert (found.shape, found.dtype) == ((4, 5, 1), np.dtype(np.uint8))
    # Rounding moves a pixel by half a byte at most.
    np.testing.assert_allclose(preprocess.normalized_bytes(found), preprocess.apply(gray), atol=0.5 * 0.5 + 1e-4)


@pytest.mark.parametrize("value", [-1.0, 256.0, 0.5, float("nan")])
def test_raw_values_that_are_no_bytes_are_refused(value: float) -> None:
    image = np.full((4, 4), value)
    with pytest.raises(DataRejected, match=r"^image 3 holds values from .* bytes: whole numbers from 0 to 255"):
        Preprocess().sized_bytes(image, "image 3")


@pytest.mark.parametrize("arguments", [("--input", UINT8_NHWC), ("--preprocess", "preprocess.json")])
def test_the_command_wants_input_and_preprocess_together(arguments: tuple[str, str], tmp_path: Path) -> None:
    graph = graph_of("fp32", tmp_path)
    outcome = invoke("build", graph, "--target", "cpu", *arguments)
    assert outcome.exit_code == 2
    assert "--input uint8-nhwc and --preprocess preprocess.json go together" in outcome.stderr


def test_the_command_builds_an_engine_of_bytes_and_its_manifest_says_what_it_takes(tmp_path: Path) -> None:
    graph, preprocess = graph_of("fp32", tmp_path), tmp_path / "preprocess.json"
    preprocess.write_text(json.dumps({"resize": [9, 9], "crop": [8, 8], "scale": 0.5, "mean": [1.0], "std": [2.0]}))
    asked = ("build", graph, "--target", "cpu", "--out", tmp_path / "e.onnx", "--json")
    outcome = invoke(*asked, "--input", UINT8_NHWC, "--preprocess", preprocess)
    assert outcome.exit_code == 0, outcome.stderr
    predicate = json.loads((tmp_path / "e.onnx.manifest.json").read_text())["predicate"]
    assert predicate["input"] == {
        "name": "x",
        "dtype": "uint8",
        "layout": "NHWC",
        "shape": [-1, 8, 8, 16],
        "values": "the bytes of the image, 0 to 255, after resize and crop",
        "resize": [9, 9],
        "crop": [8, 8],
        "folded": {"scale": 0.5, "mean": [1.0], "std": [2.0]},
    }
    assert predicate["parity"]["state"] == "same"
    target = Target.from_json(predicate["target"])
    with ENGINES["onnxruntime"].open(tmp_path / "e.onnx", json.loads(outcome.stdout)["sha256"], target) as session:
        assert session.inputs == (TensorInfo("x", "uint8", (-1, 8, 8, 16)),)


def test_ranges_have_none_for_what_is_folded_in() -> None:
    asked = {"runtime": "tensorrt", "precisions": ("int8",), "int8": "ranges", "input": UINT8_NHWC}
    with pytest.raises(ValidationError, match="int8 = 'ranges' has no range for what input = 'uint8-nhwc' puts in"):
        TargetSettings.model_validate(asked)


def bytes_in(folder: Path) -> dict[str, NDArray[Any]]:
    labels = np.arange(60) % 3
    raw = np.random.default_rng(0).integers(0, 60, (60, 8, 8), dtype=np.uint8)
    for image, label in zip(raw, labels, strict=True):
        image[2 * label : 2 * label + 3] += 150
    arrays: dict[str, NDArray[Any]] = {"images": raw, "labels": labels}
    save_npz(folder / "images.npz", arrays)
    return arrays


class Recording(Session):
    """Answers nothing, and keeps what it was given."""

    inputs = (TensorInfo(IMAGE, "uint8", (-1, 8, 8, 1)),)
    outputs = (TensorInfo("logits", "float32", (-1, 3)),)

    def __init__(self) -> None:
        self.seen: list[Arrays] = []

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        self.seen.append(feeds)
        return {"logits": np.zeros((len(feeds[IMAGE]), 3), np.float32)}

    def close(self) -> None:
        """Nothing to let go of."""


def test_an_engine_of_bytes_is_judged_and_timed_on_the_bytes_of_the_same_images(tmp_path: Path) -> None:
    raw = bytes_in(tmp_path)["images"]
    dataset = dataset_in(tmp_path, npz="images.npz", preprocess={"scale": 0.5})
    split, session = TestSplit(dataset, context_in(tmp_path)), Recording()
    split.of_session(session, CAMERA, 1, 64)
    np.testing.assert_array_equal(session.seen[0][IMAGE], raw[split.indices][..., None])

    feeds = both_forms(dataset.inputs([5]), dataset.bytes_of([5]))
    for target, expected in ((CAMERA, raw[[5], ..., None]), (Target("cpu", "onnxruntime"), raw[[5], None] * 0.5)):
        FedSession(session, target).run(feeds)
        assert list(session.seen[-1]) == [IMAGE]
        np.testing.assert_array_equal(session.seen[-1][IMAGE], expected)


def camera_stage(folder: Path) -> Build:
    target = '[build.targets.cpu]\nruntime = "onnxruntime"\n'
    stage = load_recipe(str(recipe_in(folder, (target, f'{target}input = "{UINT8_NHWC}"\n')))).stage("build")
    assert isinstance(stage, Build)
    return stage


def test_images_that_are_no_bytes_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    stage = camera_stage(tmp_path)
    with pytest.raises(DataRejected, match=r"image .* holds values from .* takes bytes"):
        stage.rehearse(Artifacts([splits_in(tmp_path, npz="images.npz")]), context_in(tmp_path))


def test_data_that_is_no_images_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    stage = camera_stage(tmp_path)
    splits = splits_in(tmp_path, task="sequence-classification", source="digit-rows")
    with pytest.raises(RecipeError, match=r"^\[build\.targets\.cpu\] input = 'uint8-nhwc' is for images"):
        stage.rehearse(Artifacts([splits]), context_in(tmp_path, task="sequence-classification"))
