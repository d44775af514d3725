"""What each layer has of multiply-adds, which block it belongs to, and what it loses by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto
from onnx_networks import NetworkBuilder, attention, images, residual
from spiked_network import SPIKED, spiked

from calibration.errors import CalibrationError
from calibration.layers import Layer, checked_names, int8_share, layers_of
from calibration.methods.method import Range
from calibration.placement.families import FAMILY
from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import activation_grid, quantize
from calibration.ranges import ranges_from_sketches
from calibration.sensitivity import local_sqnr_db, saturation
from calibration.statistics import Sketch
from calibration.statistics.collect import Batch, collect
from calibration.weights import weight_scales


def batches(model: ModelProto, count: int = 8, size: int = 4) -> list[Batch]:
    source = model.graph.input[0]
    shape = [d.dim_value for d in source.type.tensor_type.shape.dim][1:]
    values = images(count, *shape)
    return [
        Batch([str(i) for i in range(start, start + size)], {source.name: values[start : start + size]})
        for start in range(0, count, size)
    ]


def layers(model: ModelProto, modules: dict[str, str] | None = None) -> dict[str, Layer]:
    return {layer.node: layer for layer in layers_of(model, batches(model)[0], modules)}


def every_operator() -> ModelProto:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 3, 8, stride=2, output="conv"))
    x = net.conv(x, 8, 8, group=8, output="depthwise")
    x = net.node("ConvTranspose", x, net.weight(net.normal(8, 4, 2, 2)), strides=[2, 2], output="up")
    x = net.node("Reshape", x, net.weight(np.array([0, 4, -1], np.int64)))
    x = net.node("MatMul", x, net.node("Transpose", x, perm=[0, 2, 1]), output="product")
    net.linear(net.node("Flatten", x), 16, 5, output="logits")
    return net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 5]})


def test_multiply_adds_of_one_sample_are_counted_for_every_operator() -> None:
    found = {name: layer.multiply_adds for name, layer in layers(prepared(every_operator())).items()}
    assert found == {
        "node_conv": 8 * 4 * 4 * 3 * 9,
        "node_depthwise": 8 * 4 * 4 * 9,
        "node_up": 8 * 4 * 4 * 4 * 2 * 2,
        "node_product": 4 * 4 * 64,
        "node_logits": 16 * 5,
    }


def test_the_share_in_int8_is_of_all_multiply_adds() -> None:
    model = prepared(every_operator())
    every = list(layers(model).values())
    placement = place(model, "tensorrt", {"node_conv": "a test"})
    quantized = sum(each.multiply_adds for each in every if each.node == "node_depthwise")
    assert set(placement.quantized_nodes) & {each.node for each in every} == {"node_depthwise"}
    assert int8_share(every, placement) == pytest.approx(quantized / sum(each.multiply_adds for each in every))


def test_blocks_are_modules_that_hold_several_layers_and_not_all() -> None:
    model = prepared(residual(widths=(4, 8)))
    paths = [
        "stem.0",
        "stages.0.conv1",
        "stages.0.conv2",
        "stages.1.conv1",
        "stages.1.conv2",
        "stages.1.skip.0",
        "head",
    ]
    modules = dict(zip(layers(model), paths, strict=True))
    found = {layer.path: layer.group for layer in layers(model, modules).values()}
    assert found["stages.0.conv2"] == "stages.0"
    assert found["stages.1.skip.0"] == found["stages.1.conv1"] == "stages.1"
    stem, head = next(iter(modules)), list(modules)[-1]
    assert (found["stem.0"], found["head"]) == (stem, head)


def test_without_paths_a_block_is_what_ends_in_one_residual_sum() -> None:
    found = {name: layer.group for name, layer in layers(prepared(residual(widths=(4, 8)))).items()}
    assert found["node_conv_2"] == found["node_conv_4"] == "node_add_5"
    assert found["node_conv_7"] == found["node_conv_9"] == found["node_conv_10"] == "node_add_11"
    assert found["node_logits"] == "node_logits"


@pytest.mark.parametrize("family", ["cpu-vnni", "tensorrt"])
@pytest.mark.parametrize("network", [residual, attention])
def test_every_quantized_layer_gets_the_sqnr_of_its_own_result(family: str, network: object) -> None:
    model = prepared(network())  # type: ignore[operator]
    ranges = ranges_from_sketches(collect(model, batches(model), threads=1), "minmax")
    placement = place(model, family)
    names = [name for name in layers(model) if name in placement.quantized_nodes]
    found = local_sqnr_db(model, quantize(model, ranges, placement), names, batches(model), threads=1)
    assert list(found) == names
    assert all(20 < value < 70 for value in found.values())
    one_by_one = local_sqnr_db(model, quantize(model, ranges, placement), names, batches(model, size=1), threads=1)
    assert list(one_by_one.values()) == pytest.approx(list(found.values()), abs=1e-3)


def test_the_sqnr_of_a_layer_is_that_of_a_float64_reference() -> None:
    net = NetworkBuilder()
    weight, values = net.normal(16, 32), images(8, 32)
    inner = net.node("MatMul", "x", net.weight(weight.T.copy()), output="y")
    net.node("MatMul", inner, net.weight(net.normal(16, 2)), output="z")
    model = prepared(net.model({"x": ["batch", 32]}, {"z": ["batch", 2]}))
    batch = Batch([str(i) for i in range(8)], {"x": values})
    ranges = ranges_from_sketches(collect(model, [batch], threads=1), "minmax")
    int8 = quantize(model, ranges, place(model, "tensorrt"))
    found = local_sqnr_db(model, int8, ["node_y"], [batch], threads=1)["node_y"]
    scale = activation_grid(ranges.of("x"), FAMILY["tensorrt"]).scale
    scales = weight_scales(weight.T.copy(), 1, 127).astype(np.float64)
    rounded = np.clip(np.rint(values / np.float32(scale)), -128, 127) * scale
    exact = values.astype(np.float64) @ weight.T.astype(np.float64)
    noise = rounded @ (np.rint(weight.T / scales) * scales) - exact
    assert found == pytest.approx(10 * np.log10((exact**2).sum() / (noise**2).sum()), abs=0.01)


def test_the_layer_whose_input_one_channel_dominates_loses_most() -> None:
    model = prepared(spiked())
    ranges = ranges_from_sketches(collect(model, batches(model), threads=1), "minmax")
    placement = place(model, "tensorrt")
    names = [name for name in layers(model) if name in placement.quantized_nodes]
    found = local_sqnr_db(model, quantize(model, ranges, placement), names, batches(model), threads=1)
    assert min(found, key=lambda name: found[name]) == SPIKED


def test_without_an_image_there_is_nothing_to_say() -> None:
    model = prepared(residual(widths=(4,)))
    ranges = ranges_from_sketches(collect(model, batches(model), threads=1), "minmax")
    with pytest.raises(CalibrationError, match="no image to compare the layers on; give at least one"):
        local_sqnr_db(model, quantize(model, ranges, place(model, "tensorrt")), ["node_conv_2"], [], threads=1)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=200), st.floats(0.01, 1), st.floats(0.01, 1))
def test_saturation_is_the_share_outside_the_range_within_a_bin(values: list[float], low: float, high: float) -> None:
    array = np.array(values, np.float32)
    sketch = Sketch()
    sketch.update(array)
    covered = Range(min(float(array.min()) * low, 0.0), max(float(array.max()) * high, 0.0))
    width = sketch.width
    surely = ((array > covered.high + width) | (array < covered.low - width)).mean()
    perhaps = ((array > covered.high - width) | (array < covered.low + width)).mean()
    assert surely - 1e-9 <= saturation(sketch, covered) <= perhaps + 1e-9


def test_nothing_saturates_in_the_extremes_and_nothing_is_no_value() -> None:
    sketch = Sketch()
    sketch.update(images(1, 1000))
    assert saturation(sketch, Range(sketch.minimum, sketch.maximum)) == 0.0
    assert saturation(Sketch(), Range(0.0, 1.0)) == 0.0


def test_a_layer_that_the_graph_lacks_is_named_with_those_it_has() -> None:
    every = list(layers(prepared(residual(widths=(4,)))).values())
    with pytest.raises(CalibrationError, match="latencies: the graph has no layer 'conv9'; its layers are node_conv_0"):
        checked_names(["node_conv_0", "conv9"], every, "latencies")
