"""The FP16 graph: half inside, float32 outside, and float32 where half would overflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from onnx_networks import NetworkBuilder, attention, images, residual

from calibration.errors import CalibrationError
from calibration.float16 import float16_from_float32, float32_nodes
from calibration.prepare import prepared
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from engines.audit import summarize
from engines.base import AxisProfile, Target
from engines.tensorrt.engine import TensorRTRTX


def calibrated(model: ModelProto, values: NDArray[np.float32]) -> tuple[ModelProto, Ranges]:
    model = prepared(model)
    batch = Batch([str(i) for i in range(len(values))], {model.graph.input[0].name: values})
    return model, ranges_from_sketches(collect(model, [batch], threads=1), "minmax")


def run(model: ModelProto, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: values})
    return outputs


def initializer_types(model: ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize(("network", "shape"), [(residual, (1, 8, 8)), (attention, (16, 32))])
def test_the_half_precision_graph_answers_like_the_float_one(
    network: Callable[[], ModelProto], shape: tuple[int, ...]
) -> None:
    values = images(16, *shape)
    model, ranges = calibrated(network(), values)
    half = float16_from_float32(model, ranges)
    assert float32_nodes(model, ranges) == {}
    wanted, found = run(model, values)[0], run(half, values)[0]
    assert found.dtype == np.float32
    assert np.abs(wanted - found).max() < 5e-3 * np.abs(wanted).max()
    assert initializer_types(half) <= {TensorProto.FLOAT16, TensorProto.INT64}
    assert len(half.SerializeToString()) < 0.52 * len(model.SerializeToString())


def test_inputs_and_outputs_keep_names_and_types_and_equal_input_gives_equal_bytes() -> None:
    model, ranges = calibrated(residual(), images(4, 1, 8, 8))
    half = float16_from_float32(model, ranges)
    assert list(half.graph.input) == list(model.graph.input)
    assert list(half.graph.output) == list(model.graph.output)
    assert [node.op_type for node in half.graph.node].count("Cast") == 2
    assert half.SerializeToString() == float16_from_float32(model, ranges).SerializeToString()


@pytest.mark.parametrize(("network", "shape"), [(residual, (1, 8, 8)), (attention, (16, 32))])
def test_tensorrt_builds_it_strongly_typed_with_half_precision_products(
    tmp_path: Path, network: Callable[[], ModelProto], shape: tuple[int, ...]
) -> None:
    engine, target = TensorRTRTX(), Target("rtx", "tensorrt-rtx", ("fp16",), batch=AxisProfile(1, 2, 4))
    if missing := engine.why_not_build(target):
        pytest.skip(missing)
    half = float16_from_float32(*calibrated(network(), images(4, *shape)))
    onnx.save(half, tmp_path / "fp16.onnx")
    built = engine.build(tmp_path / "fp16.onnx", "fp16", target, tmp_path / "fp16.plan")
    audit = summarize(built.layers)
    assert audit.float16 == audit.products > 0


def large_activations() -> ModelProto:
    """An activation near 100,000 between two convolutions, and behind a Relu that hides the first of them."""
    net = NetworkBuilder()
    weight = net.weight(np.full((4, 1, 1, 1), 25_000, np.float32))
    large = net.node("Relu", net.node("Conv", "image", weight, output="hidden"), output="large")
    small = net.node("Mul", large, net.weight(np.array(1e-3, np.float32)), output="small")
    net.conv(small, 4, 4, output="features")
    return net.model({"image": ["batch", 1, 4, 4]}, {"features": ["batch", 4, 4, 4]})


def test_nodes_beside_a_tensor_that_overflows_keep_float32_and_are_listed() -> None:
    values = images(8, 1, 4, 4)
    values[3, 0, 0, 0] = 4.0
    model, ranges = calibrated(large_activations(), values)
    kept = float32_nodes(model, ranges)
    assert set(kept) == {"node_hidden", "node_large", "node_small"}
    assert kept["node_small"].startswith("tensor 'large' reaches 100000; half precision ends at 65504")
    wanted, found = run(model, values)[0], run(float16_from_float32(model, ranges), values)[0]
    assert np.isfinite(found).all()
    assert np.abs(wanted - found).max() < 5e-3 * np.abs(wanted).max()


def test_headroom_keeps_what_unseen_images_may_reach() -> None:
    image = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)  # one value throughout would be no image
    model, ranges = calibrated(large_activations(), 1.6 * image)
    assert "tensor 'large' reaches 40000" in float32_nodes(model, ranges)["node_large"]
    model, ranges = calibrated(large_activations(), 1.2 * image)
    assert float32_nodes(model, ranges) == {}


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        (1e-9, "constant 'weight_2' is 1e-09, which half precision cannot represent"),
        (-1e5, "constant 'weight_2' reaches 100000; half precision ends at 65504"),
        (-np.inf, "constant 'weight_2' reaches inf"),
    ],
)
def test_an_epsilon_or_a_mask_that_half_precision_would_change_keeps_its_node_in_float32(
    constant: float, message: str
) -> None:
    net = NetworkBuilder()
    first = net.conv("image", 1, 4)
    net.node("Sigmoid", net.node("Add", first, net.weight(np.array(constant, np.float32)), output="sum"), output="y")
    model = prepared(net.model({"image": ["batch", 1, 4, 4]}, {"y": ["batch", 4, 4, 4]}))
    kept = float32_nodes(model, Ranges("minmax", 1, {}))
    assert set(kept) == {"node_sum"}
    assert kept["node_sum"].startswith(message)
    values = images(2, 1, 4, 4)
    found = run(float16_from_float32(model, Ranges("minmax", 1, {})), values)[0]
    np.testing.assert_allclose(found, run(model, values)[0], atol=2e-3)


def test_casts_shapes_and_operands_that_are_float32_by_definition_are_mended() -> None:
    net = NetworkBuilder()
    x = net.conv("image", 1, 4)
    scales = net.weight(np.array([1, 1, 2, 2], np.float32))
    x = net.node("Resize", x, "", scales, mode="nearest")
    count = net.node("Cast", net.node("Shape", x), to=TensorProto.FLOAT)
    ones = net.node(
        "ConstantOfShape",
        net.node("Shape", x),
        value=onnx.helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0]),
    )
    net.node("Add", net.node("Add", x, ones), net.node("ReduceMax", count, keepdims=0), output="y")
    model, ranges = calibrated(
        net.model({"image": ["batch", 1, 4, 4]}, {"y": ["batch", 4, 8, 8]}), values := images(2, 1, 4, 4)
    )
    assert float32_nodes(model, ranges) == {}
    half = float16_from_float32(model, ranges)
    np.testing.assert_allclose(run(half, values)[0], run(model, values)[0], rtol=3e-3, atol=3e-3)
    resize = next(node for node in half.graph.node if node.op_type == "Resize")
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert kinds[resize.input[2]] == TensorProto.FLOAT


def test_what_a_normalization_writes_in_float32_by_definition_stays_so() -> None:
    net = NetworkBuilder()
    x = net.node("MatMul", "x", net.weight(net.normal(8, 8)))
    scale = net.weight(np.ones(8, np.float32))
    norm = onnx.helper.make_node("LayerNormalization", [x, scale], ["y", "mean"], name="norm", axis=-1)
    model = net.model({"x": ["batch", 8]}, {"sum": ["batch", 8]})
    model.graph.node.extend([norm, onnx.helper.make_node("Add", ["y", "mean"], ["sum"], name="add")])
    model, ranges = calibrated(model, values := images(4, 8))
    half = float16_from_float32(model, ranges)
    assert float32_nodes(model, ranges) == {}
    inferred = onnx.shape_inference.infer_shapes(half).graph.value_info
    types = {value.name: value.type.tensor_type.elem_type for value in inferred}
    assert (types["y"], types["mean"]) == (TensorProto.FLOAT16, TensorProto.FLOAT)
    add = next(node for node in half.graph.node if node.name == "add")
    assert all(types[name] == TensorProto.FLOAT16 for name in add.input)
    np.testing.assert_allclose(run(half, values)[0], run(model, values)[0], atol=2e-2)


def test_an_output_that_other_layers_read_is_float32_outside_and_half_inside() -> None:
    net = NetworkBuilder()
    features = net.node("Relu", net.conv("image", 1, 4), output="features")
    net.conv(features, 4, 2, output="mask")
    outputs: dict[str, Sequence[int | str]] = {"mask": ["batch", 2, 4, 4], "features": ["batch", 4, 4, 4]}
    values = images(2, 1, 4, 4)
    model, ranges = calibrated(net.model({"image": ["batch", 1, 4, 4]}, outputs), values)
    half = float16_from_float32(model, ranges)
    assert [node.op_type for node in half.graph.node].count("Cast") == 3
    for wanted, found in zip(run(model, values), run(half, values), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=1e-2)


def test_ranges_that_cut_outliers_are_refused() -> None:
    model, ranges = calibrated(residual(widths=(4,)), images(4, 1, 8, 8))
    with pytest.raises(CalibrationError, match="ranges of method 'entropy' cut off what half precision must hold"):
        float16_from_float32(model, Ranges("entropy", 4, ranges.tensors))
