"""Where Q/DQ pairs go, proven by what the runtimes make of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images, residual

from calibration import FAMILIES
from calibration.errors import CalibrationError
from calibration.placement.place import Placement, place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.ranges import ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from engines.audit import Audit, summarize
from engines.base import AxisProfile, Target
from engines.tensorrt.engine import TensorRTRTX


def quantized(
    model: ModelProto, family: str, spared: Mapping[str, str] = MappingProxyType({})
) -> tuple[ModelProto, Placement]:
    model = prepared(model)
    source = model.graph.input[0]
    shape = [d.dim_value for d in source.type.tensor_type.shape.dim][1:]
    batch = Batch(["a", "b", "c", "d"], {source.name: images(4, *shape)})
    ranges = ranges_from_sketches(collect(model, [batch], threads=1), "minmax")
    placement = place(model, family, spared)
    return quantize(model, ranges, placement), placement


def optimized(model: ModelProto, folder: Path, keep_signed: bool = False) -> Counter[str]:
    """Operators that onnxruntime runs on a CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    if keep_signed:  # as on Arm; x86 would turn INT8 into UINT8 first
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def realized(model: ModelProto, folder: Path) -> Audit:
    """What TensorRT-RTX builds, with no GPU at hand."""
    engine = TensorRTRTX()
    target = Target("rtx", "tensorrt-rtx", ("int8",), batch=AxisProfile(1, 2, 4))
    if missing := engine.why_not_build(target):
        pytest.skip(missing)
    onnx.save(model, folder / "int8.onnx")
    return summarize(engine.build(folder / "int8.onnx", "int8", target, folder / "int8.plan").layers)


def left_in_float(placement: Placement) -> set[str]:
    compute = [decision for decision in placement.decisions if decision.operator in {"Conv", "Gemm", "MatMul"}]
    return {decision.node for decision in compute if not decision.quantized}


def reason_of(placement: Placement, node: str) -> str:
    return next(decision.reason for decision in placement.decisions if decision.node == node)


def mobile() -> ModelProto:
    """Inverted residuals with depthwise convolutions and ReLU6."""
    net = NetworkBuilder()
    least, most = net.weight(np.array(0, np.float32)), net.weight(np.array(6, np.float32))
    x = net.node("Clip", net.conv("image", 3, 16, stride=2), least, most)
    for stride in (1, 2):
        inner = net.node("Clip", net.conv(x, 16, 64, kernel=1), least, most)
        inner = net.node("Clip", net.conv(inner, 64, 64, stride=stride, group=64), least, most)
        inner = net.conv(inner, 64, 16, kernel=1)
        x = net.node("Add", x, inner) if stride == 1 else inner
    net.linear(net.spatial_mean(x), 16, 32, output="logits")
    return net.model({"image": ["batch", 3, 16, 16]}, {"logits": ["batch", 32]})


def pooled() -> ModelProto:
    """A stem with max pooling, two linear layers behind a flatten."""
    net = NetworkBuilder()
    x = net.node("MaxPool", net.node("Relu", net.conv("image", 3, 16)), kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Relu", net.conv(x, 16, 16))
    x = net.node("Relu", net.linear(net.node("Flatten", x), 256, 64))
    net.linear(x, 64, 32, output="logits")
    return net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 32]})


def unet() -> ModelProto:
    """Down, up through a transposed convolution, HardSwish, and a concatenation with the skip."""
    net = NetworkBuilder()
    skip = net.node("Relu", net.conv("image", 3, 16))
    x = net.node("HardSwish", net.conv(net.node("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2]), 16, 32))
    x = net.node("ConvTranspose", x, net.weight(net.normal(32, 16, 2, 2, scale=0.1)), strides=[2, 2])
    x = net.node("Relu", net.conv(net.node("Concat", skip, x, axis=1), 32, 16))
    net.node("Sigmoid", net.conv(x, 16, 2, kernel=1), output="mask")
    return net.model({"image": ["batch", 3, 16, 16]}, {"mask": ["batch", 2, 16, 16]})


def test_on_a_cpu_every_convolution_of_a_residual_network_runs_in_8_bits_with_nothing_between(tmp_path: Path) -> None:
    model, placement = quantized(residual(), "cpu-vnni")
    assert left_in_float(placement) == {"node_logits"}
    assert optimized(model, tmp_path) == {
        "QuantizeLinear": 1,  # of the image
        "QLinearConv": 9,
        "QLinearAdd": 2,
        "DequantizeLinear": 2,  # both operands of the last add, which only the mean reads
        "Add": 1,
        "Relu": 1,
        "ReduceMean": 1,
        "Gemm": 1,
    }


@pytest.mark.parametrize("family", ["cpu-vnni", "cpu-avx2", "cpu-arm64"])
def test_on_a_cpu_depthwise_convolutions_and_relu6_stay_in_8_bits(tmp_path: Path, family: str) -> None:
    model, _ = quantized(mobile(), family)
    found = optimized(model, tmp_path, keep_signed=family == "cpu-arm64")
    assert (found["QLinearConv"], found["QLinearAdd"]) == (7, 1)
    assert not {"Conv", "Clip", "FusedConv"} & found.keys()
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)


def test_on_a_cpu_pooling_and_flattening_move_8_bit_values(tmp_path: Path) -> None:
    model, placement = quantized(pooled(), "cpu-vnni")
    found = optimized(model, tmp_path)
    assert (found["QLinearConv"], found["QGemm"], found["MaxPool"]) == (2, 1, 1)
    pool = next(a for a in placement.activations if a.tensor == "maxpool_2")
    assert pool.range_from == "relu_1"
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)


@pytest.mark.parametrize("product", ["Gemm", "MatMul"])
@pytest.mark.parametrize("behind", ["Relu", "Tanh"])
def test_on_a_cpu_products_take_8_bits_whatever_reads_them(tmp_path: Path, product: str, behind: str) -> None:
    net = NetworkBuilder()
    first = net.node("Relu", net.linear("x", 32, 32))
    shared = net.node(behind, net.node(product, first, net.weight(net.normal(32, 32, scale=0.2))))
    inner = net.node("Tanh", net.node(product, shared, net.weight(net.normal(32, 32, scale=0.2))))
    net.linear(net.node("Mul", shared, inner), 32, 4, output="y")
    model, placement = quantized(net.model({"x": ["batch", 32]}, {"y": ["batch", 4]}), "cpu-vnni")
    found = optimized(model, tmp_path)
    assert len(placement.weights) == 3
    assert found["QGemm"] + found["QLinearMatMul"] + found["MatMulIntegerToFloat"] == 3
    assert found["Gemm"] == 1  # the head
    assert found["FusedGemm"] + found["MatMul"] == 0


def test_on_a_cpu_the_products_of_attention_take_8_bits(tmp_path: Path) -> None:
    model, placement = quantized(attention(), "cpu-vnni")
    found = optimized(model, tmp_path)
    assert left_in_float(placement) == {"node_logits"}
    assert found["QLinearMatMul"] + found["MatMulIntegerToFloat"] == 8
    assert found["MatMul"] + found["DequantizeLinear"] == 0


def test_on_a_cpu_what_never_fuses_stays_float_and_the_convolutions_around_it_do_not(tmp_path: Path) -> None:
    model, placement = quantized(unet(), "cpu-vnni")
    assert left_in_float(placement) == {"node_conv_9"}
    assert "no 8-bit ConvTranspose" in reason_of(placement, "node_convtranspose_5")
    assert optimized(model, tmp_path)["QLinearConv"] == 3


@pytest.mark.parametrize(
    ("network", "float_nodes"),
    [
        (residual, {"node_logits"}),
        (mobile, {"node_logits"}),
        (pooled, {"node_logits"}),
        (attention, {"node_logits"}),
    ],
)
@pytest.mark.parametrize("family", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_realizes_int8_operands_wherever_they_were_meant(
    tmp_path: Path, network: object, float_nodes: set[str], family: str
) -> None:
    model, placement = quantized(network(), family)  # type: ignore[operator]
    assert left_in_float(placement) == float_nodes
    audit = realized(model, tmp_path)
    assert set(audit.float_products) == float_nodes
    assert audit.int8 == audit.products - 1 > 0


def test_tensorrt_keeps_a_transposed_convolution_in_float_and_the_rest_in_int8(tmp_path: Path) -> None:
    model, placement = quantized(unet(), "tensorrt-rtx")
    assert "in float whatever surrounds it" in reason_of(placement, "node_convtranspose_5")
    audit = realized(model, tmp_path)
    assert set(audit.float_products) == {"node_convtranspose_5", "node_conv_9"}


def test_a_residual_add_reads_the_skip_as_the_next_convolution_does_and_the_main_branch_in_float() -> None:
    _, placement = quantized(residual(), "tensorrt-rtx")
    readers = {activation.tensor: activation.readers for activation in placement.activations}
    assert readers["relu_1"] == (("node_conv_2", 0), ("node_add_5", 1))
    assert "conv_4" not in readers
    assert reason_of(placement, "node_add_5") == "fused into node_conv_4; the skip is read in INT8"


def test_a_downsampled_skip_is_quantized_for_tensorrt_and_left_for_rtx_which_builds_the_same(tmp_path: Path) -> None:
    classic, rtx = (quantized(residual(), family) for family in ("tensorrt", "tensorrt-rtx"))
    assert classic[1].tensors - rtx[1].tensors == {"conv_10", "conv_16"}  # the 1x1 convolutions
    assert rtx[1].tensors <= classic[1].tensors
    audits = [realized(model, tmp_path) for model in (classic[0], rtx[0])]
    assert audits[0] == audits[1]


def test_small_products_stay_in_float_for_tensorrt_and_say_so() -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.linear("features", 32, 8))
    x = net.node("Relu", net.linear(x, 8, 32))
    net.linear(net.node("Relu", net.linear(x, 32, 32)), 32, 32, output="logits")
    _, placement = quantized(net.model({"features": ["batch", 32]}, {"logits": ["batch", 32]}), "tensorrt")
    assert placement.quantized_nodes == ("node_gemm_4",)
    assert reason_of(placement, "node_gemm_0") == "a product with a dimension of 8, below 16: INT8 would be padded"


def large_head(size: int, activation: str = "") -> ModelProto:
    net = NetworkBuilder()
    x = net.node("Relu", net.linear("features", 64, 512))
    if activation:
        net.node(activation, net.linear(x, 512, size), output="logits")
    else:
        net.linear(x, 512, size, output="logits")
    return net.model({"features": ["batch", 64]}, {"logits": ["batch", size]})


def test_on_a_cpu_a_head_that_is_read_from_memory_multiplies_8_bits_and_writes_float(tmp_path: Path) -> None:
    model, placement = quantized(large_head(512), "cpu-avx2")
    assert not left_in_float(placement)
    assert reason_of(placement, "node_logits").startswith("output head whose weights are read from memory")
    assert "logits" not in placement.tensors
    assert optimized(model, tmp_path) == {"QuantizeLinear": 1, "QGemm": 2}


def test_the_range_of_what_a_large_head_reads_has_a_margin_unless_it_is_another_tensors() -> None:
    model, placement = quantized(large_head(512), "cpu-avx2")
    scales = {each.name: float(numpy_helper.to_array(each)) for each in model.graph.initializer if not each.dims}
    assert {each.tensor: each.margin for each in placement.activations} == {"features": 1.0, "relu_1": 2.0}
    batch = Batch(["a", "b", "c", "d"], {"features": images(4, 64)})
    high = ranges_from_sketches(collect(prepared(large_head(512)), [batch], threads=1), "minmax").of("relu_1").high
    assert scales["relu_1_scale"] == pytest.approx(2 * high / 255)
    net = NetworkBuilder()
    x = net.node("Relu", net.conv(net.node("Relu", net.conv("image", 16, 64)), 64, 64))
    net.linear(net.node("Flatten", x), 4096, 64, output="logits")
    _, placement = quantized(net.model({"image": ["batch", 16, 8, 8]}, {"logits": ["batch", 64]}), "cpu-avx2")
    assert not left_in_float(placement)
    assert {each.margin for each in placement.activations} == {1.0}  # Flatten runs in 8 bits: one scale on both sides


@pytest.mark.parametrize(("family", "size", "activation"), [("cpu-avx2", 511, ""), ("cpu-avx2", 512, "Relu")])
def test_a_smaller_head_and_one_whose_result_would_be_rounded_stay_float(
    family: str, size: int, activation: str
) -> None:
    _, placement = quantized(large_head(size, activation), family)
    assert len(left_in_float(placement)) == 1


@pytest.mark.parametrize("family", ["tensorrt", "tensorrt-rtx"])
def test_for_tensorrt_a_large_head_stays_float_as_any_other(family: str) -> None:
    assert left_in_float(quantized(large_head(512), family)[1]) == {"node_logits"}


def resized(**how: str) -> ModelProto:
    """Twice the height and width, between two convolutions with a sum before."""
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 3, 16))
    x = net.node("Relu", net.node("Add", net.conv(x, 16, 16), x))
    scales = net.weight(np.array([1, 1, 2, 2], np.float32))
    roi = net.weight(np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)) if "coordinate_transformation_mode" in how else ""
    x = net.node("Resize", x, roi, scales, output="resized", **how)
    net.linear(net.spatial_mean(net.node("Relu", net.conv(x, 16, 16))), 16, 4, output="logits")
    return net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 4]})


def test_on_a_cpu_a_resize_that_copies_values_keeps_their_scale_and_runs_in_8_bits(tmp_path: Path) -> None:
    model, placement = quantized(resized(mode="nearest"), "cpu-avx2")
    ranges = {each.tensor: each.range_from for each in placement.activations}
    assert ranges["resized"] != "resized"
    assert optimized(model, tmp_path) == {
        "QuantizeLinear": 1,
        "QLinearConv": 3,
        "QLinearAdd": 1,
        "Resize": 1,
        "DequantizeLinear": 1,  # before the mean
        "ReduceMean": 1,
        "Gemm": 1,
    }


@pytest.mark.parametrize(
    "how", [{"mode": "linear"}, {"mode": "nearest", "coordinate_transformation_mode": "tf_crop_and_resize"}]
)
def test_a_resize_that_makes_new_values_has_a_range_of_its_own(how: dict[str, str]) -> None:
    _, placement = quantized(resized(**how), "cpu-avx2")
    ranges = {each.tensor: each.range_from for each in placement.activations}
    assert ranges["resized"] == "resized"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_before_the_upsampling_of_a_mask_is_a_head(family: str) -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv(net.node("Relu", net.conv("image", 1, 16)), 16, 16))
    scales = net.weight(np.array([1, 1, 2, 2], np.float32))
    net.node("Resize", net.conv(x, 16, 4), "", scales, mode="linear", output="mask")
    _, placement = quantized(net.model({"image": ["batch", 1, 8, 8]}, {"mask": ["batch", 4, 16, 16]}), family)
    assert reason_of(placement, "node_conv_4").startswith("output head: ")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_output_that_other_layers_read_too_stays_float_exact_in_the_graph(family: str) -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 1, 16))
    features = net.node("Relu", net.conv(x, 16, 16), output="features")
    net.conv(net.node("Relu", net.conv(features, 16, 16)), 16, 4, output="mask")
    model = net.model({"image": ["batch", 1, 8, 8]}, {"mask": ["batch", 4, 8, 8], "features": ["batch", 16, 8, 8]})
    found, placement = quantized(model, family)
    assert reason_of(placement, "node_conv_2").startswith("output head: ")
    assert {value.name for value in found.graph.output} == {"mask", "features"}
    assert "features" in placement.tensors


def test_on_a_cpu_a_sum_and_a_pool_that_are_outputs_stay_float_while_convolutions_read_them_in_8_bits() -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 1, 8))
    total = net.node("Add", net.conv(x, 8, 8), x, output="total")
    y = net.node("Relu", net.conv(total, 8, 8))
    pooled = net.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2], output="pool")
    both = net.node("Add", net.conv(pooled, 8, 8), net.conv(y, 8, 8, stride=2))
    net.linear(net.spatial_mean(both), 8, 2, output="logits")
    outputs: dict[str, Sequence[int | str]] = {name: ["batch", 8, "h", "w"] for name in ("total", "pool")}
    _, placement = quantized(net.model({"image": ["batch", 1, 8, 8]}, {**outputs, "logits": ["batch", 2]}), "cpu-vnni")
    for node in ("node_total", "node_pool"):
        assert reason_of(placement, node) == "its result is an output of the graph, which is float"
    readers = {activation.tensor: activation.readers for activation in placement.activations}
    assert readers["total"] == (("node_conv_4", 0),)
    assert readers["pool"] == (("node_conv_7", 0),)


def test_many_activations_in_a_row_before_a_q_are_placed_in_one_look_at_each() -> None:
    net = NetworkBuilder()
    x = net.conv("image", 1, 16)
    for _ in range(60):  # each is read twice: looked at anew for each reader, that would be 2^60 looks
        x = net.node("Mul", x, net.node("Sigmoid", x))
    net.linear(net.spatial_mean(net.node("Relu", net.conv(x, 16, 16))), 16, 4, output="logits")
    placement = place(prepared(net.model({"image": ["batch", 1, 8, 8]}, {"logits": ["batch", 4]})), "tensorrt")
    rules = {decision.rule for decision in placement.decisions if decision.operator in ("Mul", "Sigmoid")}
    assert rules == {"requantizing-kernel"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_node_has_a_decision_with_a_reason_and_the_document_repeats(family: str) -> None:
    model = prepared(unet())
    placement = place(model, family)
    assert [decision.node for decision in placement.decisions] == [node.name for node in model.graph.node]
    assert all(decision.reason for decision in placement.decisions)
    document = json.dumps(placement.to_json())
    assert document == json.dumps(place(model, family).to_json())
    assert json.loads(document)["decisions"][0] == {
        "node": "node_conv_0",
        "operator": "Conv",
        "quantized": placement.decisions[0].quantized,
        "reason": placement.decisions[0].reason,
        "rule": placement.decisions[0].rule,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_spared_node_stays_float_for_the_reason_given_whatever_the_rules_say(family: str) -> None:
    model = prepared(residual())
    placement = place(model, family, {"node_conv_4": "costs too much", "node_add_11": "so does this"})
    assert reason_of(placement, "node_conv_4") == "costs too much"
    assert reason_of(placement, "node_add_11") == "so does this"
    assert "node_conv_4" not in {weight.node for weight in placement.weights}
    assert set(placement.quantized_nodes) < set(place(model, family).quantized_nodes)


def test_on_a_cpu_a_spared_convolution_runs_in_float_with_its_relu_and_is_rounded_for_its_readers_only(
    tmp_path: Path,
) -> None:
    model, placement = quantized(residual(), "cpu-vnni", {"node_conv_7": "costs too much"})
    assert reason_of(placement, "node_relu_8") == "onnxruntime has no 8-bit Relu that would pay here"
    found = optimized(model, tmp_path)
    assert (found["Conv"], found["QLinearConv"]) == (1, 8)


def test_on_a_cpu_a_transposed_convolution_between_8_bit_ones_keeps_its_weights(tmp_path: Path) -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 3, 16))
    weight = net.weight(net.normal(16, 8, 2, 2, scale=0.1))
    x = net.node("Relu", net.node("ConvTranspose", x, weight, strides=[2, 2], output="up"))
    net.linear(net.spatial_mean(net.node("Relu", net.conv(x, 8, 16))), 16, 2, output="logits")
    model, placement = quantized(net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 2]}), "cpu-vnni")
    assert {"relu_1", "relu_3"} <= placement.tensors
    optimized(model, tmp_path)
    nodes = {node.op_type: node for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert nodes["ConvTranspose"].input[1] == weight


def test_on_a_cpu_float_operators_read_the_float_tensor_where_no_channels_can_carry_scales(tmp_path: Path) -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 3, 1))
    middle = net.conv(x, 1, 4)
    net.linear(net.spatial_mean(net.node("Relu", net.conv(middle, 4, 8))), 8, 2, output="logits")
    network = net.model({"image": ["batch", 3, "h", "w"]}, {"logits": ["batch", 2]})
    model = prepared(network)
    ranges = ranges_from_sketches(collect(model, [Batch(["a"], {"image": images(1, 3, 8, 8)})], threads=1), "minmax")
    placement = place(model, "cpu-vnni", {"node_conv_2": "costs too much"})
    readers = next(each.readers for each in placement.activations if each.tensor == "relu_1")
    assert readers == (("node_conv_2", 0),)
    found = quantize(model, ranges, placement)
    assert next(node for node in found.graph.node if node.name == "node_conv_2").input[0] == "relu_1"
    assert optimized(found, tmp_path)["QLinearConv"] == 1


def test_for_tensorrt_a_spared_convolution_is_realized_in_float_and_no_other(tmp_path: Path) -> None:
    model, placement = quantized(residual(), "tensorrt-rtx", {"node_conv_4": "costs too much"})
    assert reason_of(placement, "node_add_5") == "no INT8 convolution ends in it"
    assert set(realized(model, tmp_path).float_products) == {"node_conv_4", "node_logits"}


def test_a_spared_node_that_the_graph_lacks_is_refused() -> None:
    with pytest.raises(CalibrationError, match="node 'conv1' is to stay in float, but the graph has no node of this"):
        place(prepared(residual(widths=(4,))), "cpu-vnni", {"conv1": "typo"})


def test_products_that_no_kernel_takes_say_why() -> None:
    net = NetworkBuilder()
    square = net.weight(net.normal(16, 16))
    left = net.node("MatMul", square, "x")
    net.node("MatMul", left, net.weight(net.normal(2, 16, 16)), output="stacked")
    rows = net.node("Reshape", left, net.weight(np.array([-1, 16], np.int64)))
    net.node("Gemm", rows, square, output="halved", alpha=0.5)
    net.node("Conv", "stacked", left, output="dynamic")
    model = net.model({"x": [2, 16, 16]}, {"stacked": [2, 16, 16], "halved": [32, 16], "dynamic": [2, 2, 1]})
    placement = place(prepared(model), "cpu-vnni")
    reasons = {decision.node: decision.reason for decision in placement.decisions}
    assert reasons["node_matmul_0"] == "its first operand is a constant; INT8 kernels take constants as the second one"
    assert reasons["node_stacked"] == "its constant operand has rank 3; a weight has 2"
    assert reasons["node_halved"] == "it has alpha, beta or transA, which INT8 kernels do not take"
    assert reasons["node_dynamic"] == "its weight is computed at run time"


def test_an_unknown_family_is_refused_with_the_choice() -> None:
    with pytest.raises(CalibrationError, match="family 'cpu' is unknown; choose from cpu-vnni, cpu-avx2, cpu-arm64"):
        place(prepared(residual(widths=(4,))), "cpu")
