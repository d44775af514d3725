"""What TensorRT, TensorRT-RTX and DLA take wrongly or in float."""

from __future__ import annotations

from onnx import NodeProto

from calibration.lint.every_family import one_sided
from calibration.lint.graph import MOVING_OPERATORS, Operand, QdqGraph
from calibration.lint.rule import BUILT, RTX_VERSIONS, TENSORRT, Found, LintRule

_INTEGER_OPERATORS = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
    | {"QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearGlobalAveragePool"}
)
_SIXTEEN_BITS = ("int16", "uint16")
_SMALL = 16


def _unsigned(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        if link.dtype == "uint8":
            how = "" if link.has_zero_point else ", since its zero-point is left out"
            yield link.node.name, f"its quantized side is UINT8{how}"


def _zero_points(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        if link.zero_point is not None and link.zero_point.any():
            yield link.node.name, f"its zero-point is {int(link.zero_point.ravel()[link.zero_point.ravel() != 0][0])}"


def _run_time_scales(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        if link.scale is None:
            yield link.node.name, f"its scale {link.node.input[1]!r} is computed at run time"


def _integer_biases(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        if link.dtype == "int32":
            yield link.node.name, "it dequantizes INT32"


def _sixteen_bits(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        if link.dtype in _SIXTEEN_BITS:
            yield link.node.name, f"its quantized side is {link.dtype.upper()}"


def _integer_operators(graph: QdqGraph) -> Found:
    for node in graph.nodes:
        if node.op_type in _INTEGER_OPERATORS:
            yield node.name, f"it is {node.op_type}"


def _one_sided(graph: QdqGraph) -> Found:
    for node in graph.products():
        yield from one_sided(graph, node)


def _one_sided_on_dla(graph: QdqGraph) -> Found:
    """Behind a MaxPool the Q/DQ pair is the pool's, as we write it in front of a layer that stays in float."""
    for node in graph.products():
        if not any(_is_pooled(graph, name) for name in node.input[:2]):
            yield from one_sided(graph, node)


def _is_pooled(graph: QdqGraph, tensor: str) -> bool:
    """Whether a pool alone, and what moves values, lies between a DQ and the tensor."""
    pooled = False
    while (node := graph.producer.get(tensor)) is not None and node.op_type in MOVING_OPERATORS:
        pooled, tensor = pooled or node.op_type == "MaxPool", node.input[0]
    return pooled and tensor in graph.links


def _channels_of_activations(graph: QdqGraph) -> Found:
    for node, position, operand in _operands(graph):
        if not operand.constant and operand.dq.per_channel:
            yield node.name, f"its activation {node.input[position]!r} has {operand.dq.scale.size} scales"  # type: ignore[union-attr] # per channel


def _weight_axes(graph: QdqGraph) -> Found:
    for node, position, operand in _operands(graph):
        if not operand.constant or operand.axis is None or node.op_type == "ConvTranspose":
            continue
        if operand.axis != (wanted := _output_axis(graph, node, position)):
            yield node.name, f"its weight has scales along axis {operand.axis}; output channels lie on {wanted}"


def _output_axis(graph: QdqGraph, node: NodeProto, position: int) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(item.name == ("transB" if position else "transA") and item.i for item in node.attribute)
    if node.op_type == "Gemm":
        return int(position == 1) if not transposed else int(position == 0)
    rank = graph.rank(graph.stored(node.input[position])) or 2
    return rank - 1 if position else rank - 2


def _transposed_convolutions(graph: QdqGraph) -> Found:
    for node in graph.products():
        if node.op_type == "ConvTranspose" and (graph.operand(node, 0) or graph.operand(node, 1)):
            yield node.name, "it is a quantized ConvTranspose"


def _small_products(graph: QdqGraph) -> Found:
    for node in graph.products():
        both = graph.operand(node, 0) is not None and graph.operand(node, 1) is not None
        shape = graph.shape(graph.stored(node.input[1])) if node.op_type in ("Gemm", "MatMul") and both else ()
        if shape and min(shape[-2:]) < _SMALL:
            yield node.name, f"it multiplies by a matrix of {shape[-2]} x {shape[-1]}"


def _several_pairs(graph: QdqGraph) -> Found:
    scales: dict[str, set[bytes]] = {}
    for link in graph.links.values():
        source = link.node.input[0]
        if link.node.op_type == "QuantizeLinear" and not graph.is_constant(source) and link.scale is not None:
            scales.setdefault(source, set()).add(link.scale.tobytes())
            if len(scales[source]) > 1:
                yield link.node.name, f"it quantizes {source!r}, which another one quantizes with another scale"


def _operands(graph: QdqGraph) -> list[tuple[NodeProto, int, Operand]]:
    found = ((node, at, graph.operand(node, at)) for node in graph.products() for at in (0, 1))
    return [(node, at, operand) for node, at, operand in found if operand is not None]


TENSORRT_RULES: tuple[LintRule, ...] = (
    LintRule(
        name="unsigned",
        severity="error",
        families=TENSORRT,
        why="TensorRT takes it for INT8: a scale made for 255 levels clips at half the range. It refuses zero-points",
        advice="calibrate for this family: signed, symmetric, zero-point 0, and write the INT8 zero-point out",
        source=BUILT,
        versions="TensorRT 8 to 11; TensorRT-RTX 1.7",
        finds=_unsigned,
    ),
    LintRule(
        name="zero-point",
        severity="error",
        families=TENSORRT,
        why="TensorRT knows symmetric quantization alone, and its parser refuses the graph",
        advice="calibrate for this family: symmetric, zero-point 0",
        source="TensorRT IQuantizeLayer: 'only symmetric quantization is supported'; " + BUILT,
        versions="TensorRT 8 to 11; TensorRT-RTX 1.7",
        finds=_zero_points,
    ),
    LintRule(
        name="run-time-scale",
        severity="error",
        families=TENSORRT,
        why="TensorRT wants scales as constants of the build; TensorRT-RTX 1.7 ends the process on such a graph",
        advice="calibrate, so that scales are constants",
        source="tried with TensorRT-RTX 1.7: the parser aborts",
        versions=RTX_VERSIONS,
        finds=_run_time_scales,
    ),
    LintRule(
        name="integer-bias",
        severity="error",
        families=TENSORRT,
        why="TensorRT's DequantizeLinear takes INT8, FP8 and INT4; its parser refuses the graph",
        advice="leave biases in float: they cost nothing",
        source=BUILT,
        versions="TensorRT 8 to 11; TensorRT-RTX 1.7",
        finds=_integer_biases,
    ),
    LintRule(
        name="sixteen-bits",
        severity="error",
        families=TENSORRT,
        why="TensorRT has no 16-bit integers, and its parser refuses the graph",
        advice="quantize to INT8, or leave the tensor in FP16",
        source=BUILT,
        versions="TensorRT 8 to 11; TensorRT-RTX 1.7",
        finds=_sixteen_bits,
    ),
    LintRule(
        name="integer-operator",
        severity="error",
        families=TENSORRT,
        why="TensorRT takes Q/DQ pairs around float operators, and its parser refuses integer ones",
        advice="quantize the FP32 export for this family instead",
        source=BUILT,
        versions="TensorRT 8 to 11; TensorRT-RTX 1.7",
        finds=_integer_operators,
    ),
    LintRule(
        name="one-sided-product",
        severity="error",
        families=TENSORRT,
        why="it runs in float, and what is quantized is dequantized for it: rounded, and slower than float",
        advice="quantize both operands or neither; of attention, the result of the softmax too",
        source=BUILT,
        versions=RTX_VERSIONS,
        finds=_one_sided,
        finds_on_dla=_one_sided_on_dla,
    ),
    LintRule(
        name="activation-per-channel",
        severity="error",
        families=TENSORRT,
        why="the product runs in float: only weights may have a scale per channel",
        advice="give the activation one scale",
        source=BUILT,
        versions=RTX_VERSIONS,
        finds=_channels_of_activations,
    ),
    LintRule(
        name="weight-axis",
        severity="warning",
        families=TENSORRT,
        why="scales along what is summed cannot leave the sum: the product runs in float",
        advice="give each output channel its scale: axis 0 of Conv, the last axis of MatMul, 1 - transB of Gemm",
        source=BUILT,
        versions=RTX_VERSIONS,
        finds=_weight_axes,
    ),
    LintRule(
        name="transposed-convolution",
        severity="warning",
        families=TENSORRT,
        why="TensorRT runs it in float whatever surrounds it, and dequantizes its weight at run time",
        advice="leave ConvTranspose in float",
        source=BUILT,
        versions=RTX_VERSIONS,
        finds=_transposed_convolutions,
    ),
    LintRule(
        name="small-product",
        severity="warning",
        families=TENSORRT,
        why="INT8 tensor cores multiply tiles of 16: a smaller product is padded and loses to float",
        advice="leave products with K or N below 16 in float",
        source="NVIDIA/TensorRT issues 3197 and 4554; NVIDIA, 'Best Practices: tensor core alignment'",
        versions="TensorRT 8 to 11",
        finds=_small_products,
    ),
    LintRule(
        name="several-scales",
        severity="warning",
        families=TENSORRT,
        why="each scale is one more copy of the tensor that is written and read",
        advice="let all readers, a residual add too, read through one Q/DQ pair",
        source=BUILT,
        versions=RTX_VERSIONS,
        finds=_several_pairs,
    ),
)
