"""Patterns as ONNX text, placed by our rules and built with TensorRT-RTX: what was meant for INT8 has INT8 operands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx_networks import images, residual
from tensorrt_graphs import RTX, needs_tensorrt_rtx

from calibration.float16_rest import with_float16_rest
from calibration.placement.families import FAMILY
from calibration.placement.place import Placement, place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from engines.audit import summarize
from engines.base import AxisProfile, Target

IMAGE, TOKENS = "float[N,16,16,16] x", "float[N,32,64] x"
SERIES, VOLUME = "float[N,16,32] x", "float[N,16,8,8,8] x"
# What stays in float behind a pattern: its node, and what it gives.
HEADS = {
    IMAGE: ("Conv<pads=[1,1,1,1]>(b, w)", "float[N,16,?,?] y"),
    TOKENS: ("MatMul(b, m)", "float[N,32,64] y"),
    SERIES: ("Conv<pads=[1,1]>(b, w1)", "float[N,16,32] y"),
    VOLUME: ("Conv<pads=[1,1,1,1,1,1]>(b, w3)", "float[N,16,8,8,8] y"),
}
# (input, nodes, names of the products that are meant to be in float)
PATTERNS: dict[str, tuple[str, str, set[str]]] = {
    "relu": (IMAGE, "a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) [b] b = Conv<pads=[1,1,1,1]>(r, w)", set()),
    "hard swish": (IMAGE, "a = Conv<pads=[1,1,1,1]>(x, w) r = HardSwish(a) b = Conv<pads=[1,1,1,1]>(r, w)", set()),
    "silu": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) s = Sigmoid(a) r = Mul(a, s) b = Conv<pads=[1,1,1,1]>(r, w)",
        set(),
    ),
    "prelu": (IMAGE, "a = Conv<pads=[1,1,1,1]>(x, w) r = PRelu(a, slope) b = Conv<pads=[1,1,1,1]>(r, w)", set()),
    "residual": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w) s = Add(c, r) t = Relu(s)"
        " b = Conv<pads=[1,1,1,1]>(t, w)",
        set(),
    ),
    "concat": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) c = Conv<pads=[1,1,1,1]>(a, w) d = Concat<axis=1>(a, c)"
        " b = Conv<pads=[1,1,1,1]>(d, wide)",
        set(),
    ),
    "max pooling": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)"
        " b = Conv<pads=[1,1,1,1]>(p, w)",
        set(),
    ),
    "depthwise": (IMAGE, "a = Conv<pads=[1,1,1,1],group=16>(x, depth) b = Conv<pads=[1,1,1,1]>(a, w)", set()),
    "transposed convolution": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) [up] u = ConvTranspose<strides=[2,2]>(a, up) b = Conv<pads=[1,1,1,1]>(u, w)",
        {"up"},
    ),
    "attention": (
        TOKENS,
        "q = MatMul(x, m) k = MatMul(x, m) v = MatMul(x, m) kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt)"
        " p = Softmax<axis=-1>(s) o = MatMul(p, v) b = MatMul(o, m)",
        set(),
    ),
    "layer norm and gelu": (
        TOKENS,
        "h = LayerNormalization<axis=-1>(x, ones) a = MatMul(h, m) e = Erf(a) g = Mul(a, e) b = MatMul(g, m)",
        set(),
    ),
    "max pooling twice": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) h = HardSwish(a) o = MaxPool<kernel_shape=[2,2],strides=[2,2]>(h)"
        " p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(o) b = Conv<pads=[1,1,1,1]>(p, w)",
        set(),
    ),
    "max pooling that something reads in float": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)"
        " c = Conv<pads=[1,1,1,1]>(p, w) s = Sigmoid(p) b = Mul(c, s)",
        set(),
    ),
    "max pooling before a relu": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a) r = Relu(p)"
        " b = Conv<pads=[1,1,1,1]>(r, w)",
        set(),
    ),
    "decomposed gelu": (
        TOKENS,
        "a = MatMul(x, m) d = Mul(a, half) e = Erf(d) p = Add(e, half) g = Mul(a, p) h = Mul(g, half) b = MatMul(h, m)",
        set(),
    ),
    "dilated": (
        IMAGE,
        "a = Conv<pads=[2,2,2,2],dilations=[2,2]>(x, w) r = Relu(a) b = Conv<pads=[3,3,3,3],dilations=[3,3]>(r, w)",
        set(),
    ),
    "grouped": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1],group=2>(x, two) r = Relu(a) c = Conv<pads=[1,1,1,1],group=4>(r, four) s = Relu(c)"
        " b = Conv<pads=[1,1,1,1],group=8>(s, eight)",
        set(),
    ),
    "convolutions of a series": (SERIES, "a = Conv<pads=[1,1]>(x, w1) r = Relu(a) b = Conv<pads=[1,1]>(r, w1)", set()),
    "convolutions of a volume": (
        VOLUME,
        "a = Conv<pads=[1,1,1,1,1,1]>(x, w3) r = Relu(a) b = Conv<pads=[1,1,1,1,1,1]>(r, w3)",
        set(),
    ),
    "nearest resize": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a)"
        ' u = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(r, , twice)'
        " b = Conv<pads=[1,1,1,1]>(u, w)",
        set(),
    ),
    "group normalization": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) n = GroupNormalization<num_groups=4>(a, many, many) r = Relu(n)"
        " b = Conv<pads=[1,1,1,1]>(r, w)",
        set(),
    ),
    "instance normalization": (
        IMAGE,
        "a = Conv<pads=[1,1,1,1]>(x, w) n = InstanceNormalization(a, many, many) b = Conv<pads=[1,1,1,1]>(n, w)",
        set(),
    ),
    "a product with N of 8": (TOKENS, "[small] a = MatMul(x, thin) b = MatMul(a, back)", {"small", "MatMul_b"}),
}


def graph(name: str) -> ModelProto:
    """The pattern, and a head behind it that stays in float."""
    source, nodes, _ = PATTERNS[name]
    head, output = HEADS[source]
    opset = 21 if "GroupNormalization" in nodes else 18  # whose GroupNormalization is deprecated
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({source}) => ({output}) {{ {nodes} [head] y = {head} }}'
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    shapes = {
        **{"w": (16, 16, 3, 3), "wide": (16, 32, 3, 3), "depth": (16, 1, 3, 3), "up": (16, 16, 2, 2)},
        **{"m": (64, 64), "thin": (64, 8), "back": (8, 64), "slope": (16, 1, 1), "ones": (64,), "half": ()},
        **{"two": (16, 8, 3, 3), "four": (16, 4, 3, 3), "eight": (16, 2, 3, 3), "many": (16,)},
        **{"w1": (16, 16, 3), "w3": (16, 16, 3, 3, 3)},
    }
    used = {tensor for node in model.graph.node for tensor in node.input}
    for constant in sorted(shapes.keys() & used):
        values = np.asarray(random.standard_normal(shapes[constant]) / 8, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, constant))
    if "twice" in used:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"))
    return model


def placed(model: ModelProto, family: str) -> tuple[ModelProto, Ranges, Placement]:
    model = prepared(model)
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim][1:]
    ranges = ranges_from_sketches(collect(model, [Batch(["a", "b"], {"x": images(2, *shape)})], threads=1), "minmax")
    return model, ranges, place(model, family)


@needs_tensorrt_rtx
@pytest.mark.parametrize("rest", ["fp32", "fp16"])
@pytest.mark.parametrize("name", PATTERNS)
def test_every_product_that_is_meant_for_int8_has_int8_operands(name: str, rest: str, tmp_path: Path) -> None:
    model, ranges, placement = placed(graph(name), "tensorrt-rtx")
    if (placement.family, placement.weights) == ("tensorrt-rtx", ()):
        assert PATTERNS[name][2]  # nothing is meant for INT8
        return
    found = quantize(model, ranges, placement)
    if rest == "fp16":
        found, _ = with_float16_rest(found, model, ranges)
    onnx.save(found, tmp_path / "pattern.onnx")
    target = Target("rtx", "tensorrt-rtx", batch=AxisProfile(1, 2, 4))
    audit = summarize(RTX.build(tmp_path / "pattern.onnx", "int8", target, tmp_path / "pattern.plan").layers)
    assert set(audit.float_products) == {"head"} | PATTERNS[name][2]
    assert audit.int8 == audit.products - len(audit.float_products)


def test_what_stands_behind_an_operator_that_onnx_defines_by_others_has_a_form_in_half_precision() -> None:
    model, ranges, placement = placed(graph("group normalization"), "tensorrt")
    found, kept = with_float16_rest(quantize(model, ranges, placement), model, ranges)
    (normalization,) = [node for node in found.graph.node if node.op_type == "GroupNormalization"]
    types = {tensor.name: tensor.data_type for tensor in found.graph.initializer}
    assert types[normalization.input[1]] == onnx.TensorProto.FLOAT16
    assert kept == {}


def rules(name: str) -> dict[str, str]:
    decisions = place(prepared(graph(name)), "tensorrt").decisions
    return {each.operator: each.rule for each in decisions if each.operator not in ("Conv", "MatMul", "Relu")}


def test_what_is_said_to_be_pooled_or_requantized_in_one_kernel_is_read_behind_a_q_alone() -> None:
    kernel = "requantizing-kernel"
    assert rules("max pooling") == {"MaxPool": "pool-in-int8"}
    assert rules("max pooling twice") == {"HardSwish": kernel, "MaxPool": "pool-in-int8"}
    assert rules("max pooling before a relu") == {"MaxPool": "no-int8-operator"}
    in_float = dict.fromkeys(("MaxPool", "Sigmoid", "Mul"), "no-int8-operator")
    assert rules("max pooling that something reads in float") == in_float
    assert rules("hard swish") == {"HardSwish": kernel}
    assert rules("silu") == {"Sigmoid": kernel, "Mul": kernel}
    assert rules("decomposed gelu") == {"Mul": kernel, "Erf": kernel, "Add": "add-of-floats"}
    assert rules("layer norm and gelu") == {"LayerNormalization": kernel, "Erf": kernel, "Mul": kernel}
    assert rules("instance normalization") == {"InstanceNormalization": "no-int8-operator"}


@needs_tensorrt_rtx
@pytest.mark.parametrize("name", ["max pooling twice", "max pooling before a relu", "decomposed gelu", "silu"])
def test_what_is_said_to_be_pooled_or_requantized_in_one_kernel_is_so_in_the_engine(name: str, tmp_path: Path) -> None:
    model, ranges, placement = placed(graph(name), "tensorrt-rtx")
    onnx.save(quantize(model, ranges, placement), tmp_path / "pattern.onnx")
    target = Target("rtx", "tensorrt-rtx", batch=AxisProfile(1, 2, 4))
    layers = RTX.build(tmp_path / "pattern.onnx", "int8", target, tmp_path / "pattern.plan").layers
    said = {each.node: each.rule for each in placement.decisions if each.operator not in ("Conv", "MatMul", "Add")}
    for node, rule in said.items():
        found = [each for each in layers if node in each.onnx_nodes]
        assert len(found) == 1 or node == "Mul_h"  # whose constant goes into another's
        for layer in found:
            requantizes = any(each.startswith("QuantizeLinear") for each in layer.onnx_nodes)
            if rule == "pool-in-int8":
                assert (layer.inputs[0].dtype, layer.outputs[0].dtype) == ("int8", "int8")
            elif rule == "no-int8-operator":
                assert (layer.inputs[0].dtype, requantizes) == ("float32", False)
            else:
                assert (layer.outputs[0].dtype, requantizes) == ("int8", True), node


@needs_tensorrt_rtx
def test_with_one_scale_a_weight_a_convolution_takes_bias_relu_and_sum_in_and_writes_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a scale for each channel it writes float32, and a kernel of its own does all of that, and requantizes.

    Either way another kernel requantizes: on TensorRT-RTX 1.7 no INT8 convolution writes INT8.
    """
    image = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)
    model = prepared(residual((16, 32), size=16))
    ranges = ranges_from_sketches(collect(model, [Batch(["a", "b"], {"image": image})], threads=1), "minmax")
    placement = place(model, "tensorrt-rtx")
    written, moved, summed = {}, {}, {}
    for granularity in ("channel", "tensor"):
        changed = {"tensorrt-rtx": replace(FAMILY["tensorrt-rtx"], weight_granularity=granularity)}
        monkeypatch.setattr("calibration.qdq.FAMILY", changed)
        found, _ = with_float16_rest(quantize(model, ranges, placement), model, ranges)
        onnx.save(found, tmp_path / "net.onnx")
        target = Target("rtx", "tensorrt-rtx", batch=AxisProfile(1, 2, 4))
        layers = RTX.build(tmp_path / "net.onnx", "int8", target, tmp_path / "net.plan").layers
        products = [each for each in layers if each.products and each.products != ("node_logits",)]
        assert len(products) == len(placement.weights)
        assert all(each.inputs[0].dtype == "int8" for each in products)
        written[granularity] = {output.dtype for each in products for output in each.outputs}
        summed[granularity] = sum(each.inputs[1].dtype == "float16" for each in products)
        moved[granularity] = summarize(layers).activation_bytes
    assert written == {"channel": {"float32"}, "tensor": {"float16"}}
    assert summed == {"channel": 0, "tensor": 2}  # one for each block: the skip comes into the convolution
    assert moved["tensor"] < 0.75 * moved["channel"]


def reasons(model: ModelProto) -> dict[str, tuple[bool, str]]:
    return {each.node: (each.quantized, each.rule) for each in place(prepared(model), "tensorrt-dla").decisions}


def test_on_dla_each_layer_between_others_has_a_scale_and_the_rest_says_why_it_has_none() -> None:
    found = reasons(graph("residual"))
    assert {rule for quantized, rule in found.values() if quantized} == {"dla-convolution", "dla-layer"}
    assert {node for node, (quantized, _) in found.items() if not quantized} == {"head"}
    assert found["Add_s"] == (True, "dla-layer")
    assert {rule for _, rule in reasons(graph("attention")).values()} == {"no-dla-layer", "output-head"}


def test_beyond_the_limits_of_dla_a_convolution_stays_off_it() -> None:
    model = graph("relu")
    model.graph.node[2].attribute.append(onnx.helper.make_attribute("strides", [9, 9]))
    placement = place(prepared(model), "tensorrt-dla")
    (said,) = [each.reason for each in placement.decisions if each.rule == "dla-limits"]
    assert said == "DLA does not take it (strides [9, 9] goes beyond 8); it runs on the GPU in float"


@needs_tensorrt_rtx
def test_the_graph_for_dla_is_one_that_tensorrt_takes_in_int8(tmp_path: Path) -> None:
    model, ranges, placement = placed(graph("residual"), "tensorrt-dla")
    onnx.save(quantize(model, ranges, placement), tmp_path / "dla.onnx")
    target = Target("rtx", "tensorrt-rtx", batch=AxisProfile(1, 2, 4))
    audit = summarize(RTX.build(tmp_path / "dla.onnx", "int8", target, tmp_path / "dla.plan").layers)
    assert set(audit.float_products) == {"head"}
