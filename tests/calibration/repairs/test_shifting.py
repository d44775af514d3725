"""Channels in the middle of a symmetric grid: the same function, nearer answers, and no kernel more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images
from tensorrt_graphs import RTX, TARGET, needs_tensorrt_rtx

from calibration.graph import Graph
from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.quality import compared
from calibration.ranges import ranges_from_sketches
from calibration.repairs.bias_correction import bias_corrected
from calibration.repairs.shift_sites import APART, Room, Site, Stream, sites_of
from calibration.repairs.shifting import is_shiftable, shifted
from calibration.statistics.collect import Batch, collect
from engines.audit import summarize
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.quantization import quantized
from pipeline.quantizing.quantized import Quantized
from pipeline.quantizing.settings import CalibrationData, QuantizationSettings, checked_repair


def batches_for(model: ModelProto, seed: int = 1, count: int = 32) -> list[Batch]:
    source = model.graph.input[0]
    values = images(count, *[d.dim_value for d in source.type.tensor_type.shape.dim][1:], seed=seed)
    return [Batch([str(i) for i in range(s, s + 8)], {source.name: values[s : s + 8]}) for s in range(0, count, 8)]


def inverted_residuals(
    activation: str = "HardSwish", blocks: int = 3, width: int = 16, bias: bool = True
) -> ModelProto:
    """1x1 up, depthwise, 1x1 down, added to what went in, as MobileNets and EfficientNets have it."""
    net = NetworkBuilder()

    def conv(x: str, c_in: int, c_out: int, kernel: int = 1, group: int = 1) -> str:
        if bias:
            return net.conv(x, c_in, c_out, kernel, group=group)
        weight = net.normal(c_out, c_in // group, kernel, kernel, scale=(2 / (c_in // group * kernel**2)) ** 0.5)
        return net.node("Conv", x, net.weight(weight), pads=[kernel // 2] * 4, group=group)

    def act(x: str) -> str:
        if activation == "SiLU":
            return net.node("Mul", x, net.node("Sigmoid", x))
        return net.node(activation, x)

    x = conv(act(net.conv("image", 3, width)), width, width)
    for _ in range(blocks):
        inner = act(conv(act(conv(x, width, 2 * width)), 2 * width, 2 * width, 3, group=2 * width))
        x = net.node("Add", conv(inner, 2 * width, width), x)
    net.linear(net.spatial_mean(act(conv(x, width, 32))), 32, 32, output="logits")
    return prepared(net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 32]}))


def products_of(model: ModelProto) -> tuple[str, ...]:
    return place(model, "tensorrt").quantized_nodes


def moved(model: ModelProto, room: Room = Room()) -> ModelProto:  # noqa: B008 # frozen
    return shifted(model, products_of(model), batches_for(model), 1, room)


def int8_of(model: ModelProto) -> ModelProto:
    """With corrected biases."""
    ranges = ranges_from_sketches(collect(model, batches_for(model), threads=1), "minmax")
    placement = place(model, "tensorrt")
    nodes = [weight.node for weight in placement.weights]
    corrected = bias_corrected(model, quantize(model, ranges, placement), nodes, batches_for(model), threads=1)
    return quantize(corrected, ranges, placement)


def sqnr(wanted: ModelProto, found: ModelProto) -> float:
    return compared(wanted, found, batches_for(wanted, seed=2), threads=1).sqnr_db


@pytest.mark.parametrize("activation", ["HardSwish", "SiLU", "Elu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_shift_leaves_the_function_as_it_is_and_quantizes_better(activation: str, bias: bool) -> None:
    model = inverted_residuals(activation, bias=bias)
    found = moved(model)
    assert sqnr(model, found) > 90
    assert sqnr(model, int8_of(found)) > sqnr(model, int8_of(model)) + 0.3
    assert [output.name for output in found.graph.output] == ["logits"]


@settings(max_examples=8, deadline=None)
@given(blocks=st.integers(0, 4), width=st.sampled_from([2, 8, 24]), bias=st.booleans())
def test_the_function_is_the_same_whatever_the_network(blocks: int, width: int, bias: bool) -> None:
    model = inverted_residuals("HardSwish", blocks, width, bias)
    assert sqnr(model, moved(model)) > 90
    assert sqnr(model, moved(model, APART)) > 90


def test_where_there_is_room_for_a_pad_what_a_padded_convolution_reads_is_shifted_inside_its_zeros() -> None:
    model = inverted_residuals()
    found, without = moved(model, APART), moved(model)
    pads = [node for node in found.graph.node if node.op_type == "Pad"]
    assert len(pads) == 3
    assert len(found.graph.node) == len(without.graph.node) + 3 * len(pads)
    graph = Graph(found)
    for pad in pads:
        (mul,) = graph.readers[pad.output[0]]
        (add,) = graph.readers[mul.node.output[0]]
        (conv,) = graph.readers[add.node.output[0]]
        assert [edge.node.op_type for edge in (mul, add, conv)] == ["Mul", "Add", "Conv"]
        assert not any(item.name == "pads" for item in conv.node.attribute)
        assert list(graph.shape(add.node.output[0]) or ())[1:] == [32, 10, 10]


def test_padded_convolutions_behind_relus_answer_nearer_with_the_shift() -> None:
    net = NetworkBuilder()
    x = net.conv("image", 3, 32)
    for _ in range(4):
        x = net.conv(net.node("Relu", x), 32, 32, kernel=3)
    net.conv(net.node("Sigmoid", x), 32, 32, kernel=1, output="features")
    model = prepared(net.model({"image": ["batch", 3, 8, 8]}, {"features": ["batch", 32, 8, 8]}))
    found = moved(model, APART)
    assert sqnr(model, found) > 90
    assert sqnr(model, int8_of(found)) > sqnr(model, int8_of(model)) + 0.5


@pytest.mark.parametrize("activation", ["Relu", "HardSwish"])
def test_zeros_beside_values_that_are_all_far_from_them_stay_within_the_grid(activation: str) -> None:
    net = NetworkBuilder()
    far = net.node(
        "Conv", "image", net.weight(net.normal(8, 3, 1, 1, scale=0.1)), net.weight(np.full(8, 9, np.float32))
    )
    padded = {"pads": [0, 1, 2, 0], "strides": [2, 1]}
    weight, bias = net.weight(net.normal(8, 8, 3, 3)), net.weight(net.normal(8))
    net.node("Conv", net.node(activation, far), weight, bias, output="features", **padded)
    model = prepared(net.model({"image": ["batch", 3, 8, 8]}, {"features": ["batch", 8, 4, 7]}))
    found = shifted(model, [model.graph.node[-1].name], batches_for(model), 1, APART)
    assert sqnr(model, found) > 90
    read = Graph(found).producer[found.graph.node[-1].input[0]].output[0]
    channels = collect(found, batches_for(model), threads=1, channels=True).tensors[read].channels
    assert channels is not None
    np.testing.assert_allclose(channels.low, -channels.high, rtol=1e-3, atol=1e-5)


def test_readers_that_pad_differently_and_a_pad_by_the_images_size_are_left() -> None:
    net = NetworkBuilder()
    x = net.node("HardSwish", net.conv("image", 3, 8))
    net.node("Conv", x, net.weight(net.normal(8, 8, 3, 3)), pads=[1, 1, 1, 1], output="same")
    net.node("Conv", x, net.weight(net.normal(8, 8, 1, 1)), output="pointwise")
    y = net.node("HardSwish", net.conv("image", 3, 8))
    net.node("Conv", y, net.weight(net.normal(8, 8, 3, 3)), auto_pad="SAME_UPPER", output="automatic")
    shape: list[int | str] = ["batch", 8, 8, 8]
    model = prepared(net.model({"image": ["batch", 3, 8, 8]}, dict.fromkeys(("same", "pointwise", "automatic"), shape)))
    assert list(sites_of(Graph(model), [node.name for node in model.graph.node], APART)) == []


def test_a_chain_of_residual_adds_moves_as_one_and_gains_no_node() -> None:
    model = inverted_residuals(blocks=3)
    sites = list(sites_of(Graph(model), products_of(model)))
    (stream,) = [site for site in sites if isinstance(site, Stream)]
    assert len(stream.adds) == 3
    assert len(stream.givers) == 4
    assert len(stream.readers) == 4
    single = [site for site in sites if isinstance(site, Site)]
    # Behind the first activation and the depthwise ones; what a depthwise convolution reads is padded.
    assert len(single) == 4
    assert all(site.giver is None for site in single)
    assert len(moved(model).graph.node) == len(model.graph.node) + 2 * len(single)


def test_what_somebody_else_reads_and_what_is_padded_stays_where_it_is() -> None:
    net = NetworkBuilder()
    x = net.node("HardSwish", net.conv("image", 3, 16))
    net.node("Identity", x, output="seen")
    y = net.node("HardSwish", net.conv(x, 16, 16, kernel=1))
    padded = net.node("HardSwish", net.conv(y, 16, 16, kernel=3))
    relu = net.node("Relu", net.conv(padded, 16, 16, kernel=1))
    net.conv(net.conv(relu, 16, 16, kernel=1), 16, 16, kernel=3, output="features")
    shapes: dict[str, Sequence[int | str]] = {"seen": ["batch", 16, 8, 8], "features": ["batch", 16, 8, 8]}
    model = prepared(net.model({"image": ["batch", 3, 8, 8]}, shapes))
    sites = list(sites_of(Graph(model), [node.name for node in model.graph.node]))
    assert [site.tensor for site in sites if isinstance(site, Site)] == [padded]
    assert not is_shiftable(model, [])


def test_a_layer_whose_channels_lie_on_another_axis_than_the_products_gives_no_shift() -> None:
    net = NetworkBuilder()
    # Over the last axis of images, whose channels a convolution has in front; then of 1-D signals, the other way round.
    normed = net.node("LayerNormalization", "image", *(net.weight(net.normal(8)) for _ in range(2)), axis=-1)
    net.conv(net.conv(normed, 3, 16, kernel=1), 16, 8, kernel=3, output="features")
    signal = net.node("Conv", "signal", net.weight(net.normal(16, 4, 1)), net.weight(net.normal(16)))
    product = net.node("MatMul", signal, net.weight(net.normal(24, 32)))
    net.node("Add", product, net.weight(net.normal(32)), output="answers")
    inputs: dict[str, Sequence[int | str]] = {"image": ["batch", 3, 8, 8], "signal": ["batch", 4, 24]}
    shapes: dict[str, Sequence[int | str]] = {"features": ["batch", 8, 8, 8], "answers": ["batch", 16, 32]}
    model = prepared(net.model(inputs, shapes))
    assert list(sites_of(Graph(model), [node.name for node in model.graph.node])) == []


def test_what_has_no_known_rank_is_left() -> None:
    net = NetworkBuilder()
    x = net.node("HardSwish", net.linear("row", 24, 32))
    net.linear(x, 32, 32, output="answers")
    model = prepared(net.model({"row": ["batch", 24]}, {"answers": ["batch", 32]}))
    products = [node.name for node in model.graph.node]
    assert len(list(sites_of(Graph(model), products))) == 1
    del model.graph.value_info[:]
    assert list(sites_of(Graph(model), products)) == []


def test_a_layer_norm_that_shares_its_factors_with_another_gives_the_shift_itself() -> None:
    model = attention(blocks=2)
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    offsets = next(tensor for tensor in model.graph.initializer if tensor.name == norms[0].input[2])
    offsets.CopyFrom(numpy_helper.from_array(np.full(32, 3, np.float32), offsets.name))
    for norm in norms[1:]:
        norm.input[1:] = norms[0].input[1:]
    model = prepared(model)
    found = moved(model)
    assert len(found.graph.node) == len(model.graph.node)
    assert sqnr(model, found) > 90
    seen = collect(found, batches_for(model), threads=1, channels=True).tensors
    feed_forward = [seen[norm.output[0]].channels for norm in norms[1::2]]
    for channels in feed_forward:  # its products have a bias, those of query, key and value none
        assert channels is not None
        np.testing.assert_allclose(channels.low, -channels.high, rtol=1e-3, atol=1e-5)


def test_the_moved_channels_lie_around_zero_and_a_dead_one_is_left_finite() -> None:
    net = NetworkBuilder()
    weight = net.normal(16, 3, 1, 1)
    weight[5] = 0.0
    bias = net.normal(16)
    bias[5] = -7.0  # HardSwish is zero there
    x = net.node("HardSwish", net.node("Conv", "image", net.weight(weight), net.weight(bias)))
    net.conv(x, 16, 16, kernel=1, output="features")
    model = prepared(net.model({"image": ["batch", 3, 8, 8]}, {"features": ["batch", 16, 8, 8]}))
    found = shifted(model, [model.graph.node[-1].name], batches_for(model), threads=1)
    sketch = collect(found, batches_for(model), threads=1, channels=True).tensors[found.graph.node[-1].input[0]]
    assert sketch.channels is not None
    np.testing.assert_allclose(sketch.channels.low, -sketch.channels.high, rtol=1e-3, atol=1e-5)
    assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in found.graph.initializer)
    assert sqnr(model, found) > 90


@needs_tensorrt_rtx
def test_tensorrt_rtx_builds_as_many_kernels_with_a_shift_as_without(tmp_path: Path) -> None:
    def kernels(model: ModelProto) -> tuple[int, int]:
        onnx.save(int8_of(model), tmp_path / "model.onnx")
        layers = RTX.build(tmp_path / "model.onnx", "int8", TARGET, tmp_path / "model.plan").layers
        return len(layers), summarize(layers).int8

    for activation in ("HardSwish", "Relu"):
        model = inverted_residuals(activation, width=32)
        found = moved(model, APART)
        assert len(found.graph.node) == len(model.graph.node) + 8 + 9  # Mul and Add; with a Pad before the depthwise
        assert kernels(found) == kernels(model)


def test_behind_a_relu_it_is_put_for_tensorrt_rtx_alone(tmp_path: Path) -> None:
    def relus() -> ModelProto:
        return inverted_residuals("Relu")

    for families, nodes in ((("tensorrt-rtx",), 17), (("tensorrt-rtx", "tensorrt"), 0)):
        found = calibrated(tmp_path, *families, build=relus)
        assert found.repairs[0].kept
        assert len(found.measured.graph.node) == len(relus().graph.node) + nodes


def calibrated(folder: Path, *families: str, build: Callable[[], ModelProto] = inverted_residuals) -> Quantized:
    model = build()
    onnx.save(model, folder / "own.onnx")
    data = CalibrationData(64, lambda: iter(batches_for(model, count=64)))
    wanted = QuantizationSettings("minmax", families, repair=checked_repair(["shift", "bias"]))
    return quantized(folder / "own.onnx", data, wanted, QuietProgress(), Cancellation())


def test_the_shift_is_kept_where_it_gains_and_fp8_and_fp16_are_made_without_it(tmp_path: Path) -> None:
    found = calibrated(tmp_path, "tensorrt", "tensorrt-rtx")
    assert [(trial.repair, trial.kept) for trial in found.repairs[:2]] == [("shift", True)] * 2
    assert found.repairs[0].gain_db > 1
    graphs = found.graphs()
    written = {name: {tensor for node in graph.graph.node for tensor in node.output} for name, graph in graphs.items()}
    assert any(name.endswith("_shifted") for name in written["tensorrt.int8.onnx"])
    unshifted = quantized(
        tmp_path / "own.onnx",
        CalibrationData(64, lambda: iter(batches_for(inverted_residuals(), count=64))),
        QuantizationSettings("minmax", ("tensorrt",), repair=()),
        QuietProgress(),
        Cancellation(),
    )
    for name in ("fp16.onnx", "tensorrt.fp8.onnx"):
        assert graphs[name] == unshifted.graphs()[name]


def test_fp8_of_the_graph_as_exported_has_the_ranges_that_are_kept(tmp_path: Path) -> None:
    onnx.save(inverted_residuals(), tmp_path / "own.onnx")
    data = CalibrationData(64, lambda: iter(batches_for(inverted_residuals(), count=64)))

    def found(method: str, *repair: str) -> Quantized:
        wanted = QuantizationSettings(method, ("tensorrt",), repair=checked_repair(repair))
        return quantized(tmp_path / "own.onnx", data, wanted, QuietProgress(), Cancellation())

    moved_and_wide, minmax = found("percentile:95", "shift", "widen"), found("minmax", "none")
    assert [(trial.repair, trial.kept) for trial in moved_and_wide.repairs] == [("shift", True), ("widen", True)]
    assert moved_and_wide.graphs()["tensorrt.fp8.onnx"] == minmax.graphs()["tensorrt.fp8.onnx"]


@pytest.mark.parametrize(
    ("families", "end"),
    [
        (("tensorrt", "cpu-vnni"), "cpu-vnni too; calibrate the families apart"),
        (("cpu-vnni", "cpu-arm64"), "cpu-vnni and cpu-arm64"),
    ],
)
def test_for_a_family_with_zero_points_it_is_not_tried_and_says_so(
    families: tuple[str, ...], end: str, tmp_path: Path
) -> None:
    found = calibrated(tmp_path, *families)
    assert {trial.repair for trial in found.repairs} <= {"bias"}
    (said,) = [note for note in found.notes() if note.startswith("repair shift")]
    assert said == (
        f"repair shift: not tried, because it is for TensorRT's grids without zero-point, and the graph is for {end}"
    )
