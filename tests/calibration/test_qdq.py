"""Q/DQ graphs: the numbers in them, that they run, and that they mean what the float graph means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images, residual

from calibration import FAMILIES
from calibration.errors import CalibrationError, GraphRefused
from calibration.methods.method import Range
from calibration.placement.families import FAMILY
from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import activation_grid, quantize
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from calibration.weights import weight_scales
from engines.machine import cpu_family

_NETWORKS: dict[str, tuple[Callable[[], ModelProto], tuple[int, ...]]] = {
    "residual": (residual, (1, 8, 8)),
    "attention": (attention, (16, 32)),
}


def data_for(network: str, count: int = 64) -> NDArray[np.float32]:
    return images(count, *_NETWORKS[network][1])


@cache
def calibrated(network: str) -> tuple[ModelProto, Ranges]:
    model = prepared(_NETWORKS[network][0]())
    name, values = model.graph.input[0].name, data_for(network)
    batch = Batch([str(i) for i in range(len(values))], {name: values})
    return model, ranges_from_sketches(collect(model, [batch], threads=1), "minmax")


def quantized(network: str, family: str) -> ModelProto:
    model, ranges = calibrated(network)
    return quantize(model, ranges, place(model, family))


def run(model: ModelProto, values: NDArray[np.float32], optimize: bool = True) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if optimize else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: values})[0]
    return output


def run_for(family: str, model: ModelProto, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """In integer kernels where this CPU computes the family right, else as the graph is written.

    AVX2 without VNNI saturates the products of 8-bit weights: that is why it has a family of its own.
    """
    return run(model, values, optimize=not family.startswith("cpu-") or family in ("cpu-avx2", cpu_family()))


def sqnr_db(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    noise = max(float(np.sum((wanted - found) ** 2)), 1e-30)  # two equal answers have none
    return float(10 * np.log10(np.sum(wanted**2) / noise))


def constants(model: ModelProto) -> Mapping[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("network", _NETWORKS)
def test_the_quantized_graph_answers_like_the_float_one(network: str, family: str) -> None:
    model, _ = calibrated(network)
    if (network, family) == ("attention", "tensorrt-dla"):
        with pytest.raises(GraphRefused, match=r"family 'tensorrt-dla' finds nothing to quantize: .*DLA has no INT8"):
            quantized(network, family)
        return
    found, values = quantized(network, family), data_for(network)
    least_db = 25.0 if family == "cpu-avx2" else 30.0  # 7-bit weights cost one bit
    assert sqnr_db(run(model, values), run_for(family, found, values)) > least_db
    assert sqnr_db(run(model, values), run(found, values, optimize=False)) > least_db


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_and_outputs_stay_as_they_are_and_equal_input_gives_equal_bytes(family: str) -> None:
    model, _ = calibrated("residual")
    found = quantized("residual", family)
    assert list(found.graph.input) == list(model.graph.input)
    assert list(found.graph.output) == list(model.graph.output)
    assert found.SerializeToString() == quantized("residual", family).SerializeToString()


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_stored_in_8_bits_and_their_float_copies_are_gone(family: str) -> None:
    model, _ = calibrated("residual")
    found, placement = quantized("residual", family), place(model, family)
    assert len(placement.weights) == 9
    stored = constants(found)
    for weight in placement.weights:
        assert weight.tensor not in stored
        integers = stored[f"{weight.tensor}_quantized"]
        assert integers.dtype == np.int8
        per_channel = np.abs(integers.astype(np.int32)).max(axis=(1, 2, 3))
        assert set(per_channel) == {64 if family == "cpu-avx2" else 127}
    assert len(found.SerializeToString()) < 0.35 * len(model.SerializeToString())


@pytest.mark.parametrize("family", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_graphs_have_no_zero_point_but_0_and_no_integer_bias(family: str) -> None:
    found = quantized("residual", family)
    stored = constants(found)
    pairs = [node for node in found.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert {stored[node.input[2]].dtype.name for node in pairs} == {"int8"}
    assert not any(stored[node.input[2]].any() for node in pairs)
    assert all(node.input[2] in stored and stored[node.input[2]].dtype == np.float32 for node in convolutions(found))


@pytest.mark.parametrize("family", ["cpu-vnni", "cpu-avx2", "cpu-arm64"])
def test_cpu_biases_are_int32_with_the_product_of_the_scales(family: str) -> None:
    found = quantized("residual", family)
    stored, writer = constants(found), {node.output[0]: node for node in found.graph.node}
    for conv in convolutions(found):
        x, weight, bias = (writer[name] for name in conv.input)
        assert stored[bias.input[0]].dtype == np.int32
        np.testing.assert_array_equal(stored[bias.input[1]], stored[x.input[1]] * stored[weight.input[1]])


def convolutions(model: ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize("family", ["cpu-vnni", "cpu-arm64"])
def test_after_a_relu_the_zero_point_is_the_least_of_its_type(family: str) -> None:
    found = quantized("residual", family)
    stored = constants(found)
    after_relu = [v for name, v in stored.items() if name.startswith("relu") and name.endswith("zero_point")]
    assert {int(value) for value in after_relu} == {0 if family == "cpu-vnni" else -128}


_ends = st.floats(-1e5, 1e5, width=32)


@pytest.mark.parametrize("family", FAMILIES)
@given(ends=st.tuples(_ends, _ends))
@settings(max_examples=100, deadline=None)
def test_a_grid_covers_its_range_to_half_a_step_and_has_an_exact_zero(family: str, ends: tuple[float, float]) -> None:
    measured = Range(min(ends), max(ends))
    grid, limits = activation_grid(measured, FAMILY[family]), np.iinfo(FAMILY[family].activation_dtype)
    assert grid.scale > 0
    assert limits.min <= grid.zero_point <= limits.max
    for value in (measured.low, 0.0, measured.high):
        integer = np.clip(np.rint(value / grid.scale) + grid.zero_point, limits.min, limits.max)
        restored = (integer - grid.zero_point) * grid.scale
        assert abs(restored - value) <= 0.501 * grid.scale
        assert value != 0.0 or restored == 0.0


def test_a_channel_of_zeros_gets_a_scale_that_its_bias_can_live_with() -> None:
    weight = np.zeros((3, 1, 1, 2), np.float32)
    weight[0], weight[2] = 1.27, 1e-30
    assert weight_scales(weight, 0, 127) == pytest.approx([0.01, 0.01, 1e-30 / 127])
    assert weight_scales(np.zeros((2, 2), np.float32), 0, 127).tolist() == [1.0, 1.0]
    assert weight_scales(weight, 0, 127, least=np.full(3, 1e-9)) == pytest.approx([0.01, 0.01, 1e-9])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("magnitude", [1.0, 1e-12])
def test_dead_and_tiny_channels_keep_their_bias(family: str, magnitude: float) -> None:
    net = NetworkBuilder()
    weight = net.normal(4, 1, 3, 3)
    weight[1], weight[2], weight[3] = 0, 1e-12, 1e-38
    bias = np.array([0.5, 3.0, -2.0, 0], np.float32)
    x = net.node("Conv", "image", net.weight(weight), net.weight(bias), pads=[1, 1, 1, 1])
    net.conv(net.node("Relu", x, output="first"), 4, 4, output="features")
    model = prepared(net.model({"image": ["batch", 1, 8, 8]}, {"features": ["batch", 4, 8, 8]}))
    values = images(8, 1, 8, 8) * np.float32(magnitude)
    batch = Batch([str(i) for i in range(8)], {"image": values})
    ranges = ranges_from_sketches(collect(model, [batch], threads=1), "minmax")
    found = quantize(model, ranges, place(model, family))
    assert sqnr_db(run(model, values), run_for(family, found, values)) > 25


def test_shared_weights_are_quantized_for_each_of_their_readers() -> None:
    net = NetworkBuilder()
    weight, bias = net.weight(net.normal(4, 4, 3, 3, scale=0.2)), net.weight(net.normal(4))
    x = net.conv("image", 1, 4)
    for _ in range(2):
        x = net.node("Relu", net.node("Conv", x, weight, bias, pads=[1, 1, 1, 1]))
    net.conv(x, 4, 2, output="features")
    model = prepared(net.model({"image": ["batch", 1, 8, 8]}, {"features": ["batch", 2, 8, 8]}))
    values = images(8, 1, 8, 8)
    batch = Batch([str(i) for i in range(8)], {"image": values})
    ranges = ranges_from_sketches(collect(model, [batch], threads=1), "minmax")
    found = quantize(model, ranges, place(model, "cpu-vnni"))
    assert sqnr_db(run(model, values), run(found, values)) > 25


def test_a_tensor_that_is_moved_keeps_the_scale_of_what_it_was_moved_from() -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 1, 4), output="large")
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], output="pooled")
    net.linear(net.spatial_mean(net.node("Relu", net.conv(x, 4, 4), output="last")), 4, 2, output="logits")
    model = prepared(net.model({"image": ["batch", 1, 8, 8]}, {"logits": ["batch", 2]}))
    tensors = {name: Range(0.0, high) for name, high in {"image": 1, "large": 2, "pooled": 1, "last": 3}.items()}
    stored = constants(quantize(model, Ranges("minmax", 1, tensors), place(model, "cpu-vnni")))
    assert stored["pooled_scale"] == stored["large_scale"] == np.float32(2 / 255)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_relu_that_is_not_alone_in_reading_a_convolution_cuts_nothing_off_for_the_others(family: str) -> None:
    net = NetworkBuilder()
    x = net.conv("image", 1, 8)
    x = net.node("Concat", net.node("Relu", x), net.node("Tanh", x), axis=1)
    net.linear(net.spatial_mean(net.node("Relu", net.conv(x, 16, 8))), 8, 4, output="logits")
    model = prepared(net.model({"image": ["batch", 1, 8, 8]}, {"logits": ["batch", 4]}))
    values = images(16, 1, 8, 8)
    batch = Batch([str(i) for i in range(16)], {"image": values})
    ranges = ranges_from_sketches(collect(model, [batch], threads=1), "minmax")
    placement = place(model, family)
    assert ("conv_0" in placement.tensors) == (family.startswith("cpu") or family == "tensorrt-dla")
    assert sqnr_db(run(model, values), run(quantize(model, ranges, placement), values)) > 25


def test_a_missing_range_is_named() -> None:
    model, ranges = calibrated("residual")
    tensors = {name: r for name, r in ranges.tensors.items() if name != "relu_3"}
    with pytest.raises(CalibrationError, match="tensor 'relu_3' has no range; calibrate the same prepared graph"):
        quantize(model, Ranges("minmax", 64, tensors), place(model, "cpu-vnni"))


def test_a_graph_in_which_nothing_can_be_quantized_is_refused_with_the_reasons() -> None:
    net = NetworkBuilder()
    net.conv("image", 1, 4, output="features")
    model = prepared(net.model({"image": ["batch", 1, 8, 8]}, {"features": ["batch", 4, 8, 8]}))
    with pytest.raises(
        GraphRefused, match=r"'cpu-vnni' finds nothing to quantize: node_features \(Conv\): output head"
    ):
        quantize(model, Ranges("minmax", 1, {}), place(model, "cpu-vnni"))


def test_an_infinite_weight_is_refused_by_name() -> None:
    model, ranges = calibrated("residual")
    broken = ModelProto.FromString(model.SerializeToString())
    tensor: TensorProto = broken.graph.initializer[0]
    weight = numpy_helper.to_array(tensor).copy()
    weight[0] = np.inf
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    with pytest.raises(GraphRefused, match="weight 'weight_0' of node 'node_conv_0' is not finite"):
        quantize(broken, ranges, place(broken, "cpu-vnni"))
