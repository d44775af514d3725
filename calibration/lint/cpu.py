"""What onnxruntime on a CPU computes wrongly or in float."""

from __future__ import annotations

import numpy as np

from calibration.graph import SATURATING_OPERATORS
from calibration.lint.every_family import one_sided
from calibration.lint.graph import PRODUCTS, QdqGraph
from calibration.lint.rule import CPU, OPTIMIZED, ORT_VERSIONS, Found, LintRule

_NOT_SATURATING = 64
"""2 * 255 * 64 = 32,640 fits into INT16."""
_NEVER_FUSED = ("ConvTranspose", "HardSwish")
_LEAST = {"uint8": 0, "int8": -128}


def _saturating(graph: QdqGraph) -> Found:
    for node in graph.products():
        first, second = graph.operand(node, 0), graph.operand(node, 1)
        if first is None or second is None or first.dq.dtype != "uint8":
            continue
        integers = graph.integers(second.dq)
        if integers is None or integers.dtype != np.int8:
            continue
        largest = int(np.abs(integers.astype(np.int32)).max(initial=0))
        if largest > _NOT_SATURATING:
            yield node.name, f"its weight reaches {largest}, beside a UINT8 activation"


def _without_quantizer(graph: QdqGraph) -> Found:
    for node in graph.products():
        if node.op_type == "Conv" and graph.operand(node, 0) and graph.operand(node, 1):
            tensor = node.output[0]
            readers = graph.readers.get(tensor, [])
            if len(readers) == 1 and readers[0].op_type in SATURATING_OPERATORS and tensor not in graph.outputs:
                tensor = readers[0].output[0]
            if not any(reader.op_type == "QuantizeLinear" for reader in graph.readers.get(tensor, [])):
                yield node.name, f"nothing quantizes its result {tensor!r}"


def _relu_between(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        cutter = graph.producer.get(link.node.input[0])
        if link.node.op_type != "QuantizeLinear" or cutter is None or cutter.op_type != "Relu":
            continue
        before = graph.producer.get(cutter.input[0])
        zero_point = 0 if link.zero_point is None else int(link.zero_point.ravel()[0])
        if before is not None and before.op_type in PRODUCTS and zero_point != _LEAST.get(link.dtype, zero_point):
            yield before.name, f"behind its Relu lies a zero-point of {zero_point}, not {_LEAST[link.dtype]}"


def _never_fused(graph: QdqGraph) -> Found:
    for node in graph.nodes:
        if node.op_type in _NEVER_FUSED and graph.operand(node, 0):
            yield node.name, f"it is {node.op_type} between Q/DQ pairs"


def _half_pairs(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        if link.half_scale:
            yield link.node.name, "it works in half precision"


def _foreign_types(graph: QdqGraph) -> Found:
    for node in graph.products():
        for position in (0, 1):
            operand = graph.operand(node, position)
            if operand is not None and operand.dq.dtype not in ("int8", "uint8", "", "int4", "uint4"):
                yield node.name, f"its operand {node.input[position]!r} is {operand.dq.dtype.upper()}"


def _one_sided(graph: QdqGraph) -> Found:
    """onnxruntime itself quantizes the float weight of a convolution or Gemm whose activation is quantized."""
    for node in graph.products():
        activation, weight = graph.operand(node, 0), graph.operand(node, 1)
        if activation is not None and weight is None and node.op_type != "MatMul" and graph.is_constant(node.input[1]):
            continue
        yield from one_sided(graph, node)


def _biases(graph: QdqGraph) -> Found:
    for node in graph.products():
        first, second, bias = (graph.operand(node, position) for position in range(3))
        if not (first and second and bias) or bias.dq.dtype != "int32":
            continue
        scales = (first.dq.scale, second.dq.scale, bias.dq.scale)
        if any(scale is None for scale in scales):
            continue
        x, w, b = (np.ravel(scale) for scale in scales)  # type: ignore[arg-type] # none is None
        if not np.allclose(x * w, b, rtol=1e-3):
            yield (
                node.name,
                f"the scale of its INT32 bias is {b[0]:.6g}; activation times weight gives {(x * w)[0]:.6g}",
            )


def _unsigned(graph: QdqGraph) -> Found:
    for node in graph.products():
        operand = graph.operand(node, 0)
        if operand is not None and operand.dq.dtype == "uint8" and not operand.constant:
            yield node.name, f"its activation {node.input[0]!r} is UINT8"


CPU_RULES: tuple[LintRule, ...] = (
    LintRule(
        name="saturation",
        severity="error",
        families=("cpu-avx2",),
        why="vpmaddubsw adds two products of UINT8 and INT8 in 16 bits, which saturate: wrong sums, without a word",
        advice="calibrate for family cpu-avx2, whose weights stay within 64",
        source="Intel intrinsics guide, _mm256_maddubs_epi16; onnxruntime documentation, 'When and why U8S8'",
        versions="x86-64 without VNNI",
        finds=_saturating,
    ),
    LintRule(
        name="convolution-without-quantizer",
        severity="warning",
        families=CPU,
        why="onnxruntime has no convolution from 8 bits to float: it dequantizes both operands and computes in float",
        advice="quantize its result, or leave the convolution in float",
        source=OPTIMIZED,
        versions=ORT_VERSIONS,
        finds=_without_quantizer,
    ),
    LintRule(
        name="relu-zero-point",
        severity="warning",
        families=CPU,
        why="only a zero-point at the type's least value does what the Relu does, so the two stay, in float",
        advice="quantize asymmetrically behind a Relu: zero-point 0 of UINT8, -128 of INT8",
        source=OPTIMIZED,
        versions=ORT_VERSIONS,
        finds=_relu_between,
    ),
    LintRule(
        name="never-fused",
        severity="warning",
        families=CPU,
        why="onnxruntime has no 8-bit form of it on a CPU: it dequantizes and computes in float",
        advice="leave it in float",
        source=OPTIMIZED,
        versions=ORT_VERSIONS,
        finds=_never_fused,
    ),
    LintRule(
        name="half-pair",
        severity="warning",
        families=CPU,
        why="onnxruntime fuses Q/DQ pairs of float32 alone on a CPU",
        advice="give a CPU the graph whose float part is FP32",
        source=OPTIMIZED,
        versions=ORT_VERSIONS,
        finds=_half_pairs,
    ),
    LintRule(
        name="foreign-type",
        severity="warning",
        families=CPU,
        why="onnxruntime's products on a CPU take INT8 and UINT8; it dequantizes the rest and computes in float",
        advice="quantize to 8-bit integers",
        source=OPTIMIZED,
        versions=ORT_VERSIONS,
        finds=_foreign_types,
    ),
    LintRule(
        name="one-sided-product-cpu",
        severity="warning",
        families=CPU,
        why="it runs in float, and what is quantized is dequantized for it: rounded, and slower than float",
        advice="quantize both operands or neither",
        source=OPTIMIZED,
        versions=ORT_VERSIONS,
        finds=_one_sided,
    ),
    LintRule(
        name="bias-scale",
        severity="warning",
        families=CPU,
        why="onnxruntime adds an INT32 bias to the sum only where the scales agree; else the product stays in float",
        advice="give the bias the scale of the activation times that of the weight",
        source=OPTIMIZED,
        versions=ORT_VERSIONS,
        finds=_biases,
    ),
    LintRule(
        name="unsigned-on-arm",
        severity="warning",
        families=("cpu-arm64",),
        why="Arm multiplies signed by signed (sdot, smmla); unsigned activations are converted first",
        advice="calibrate for family cpu-arm64: signed activations",
        source="onnxruntime documentation, 'Quantize ONNX models': S8S8 on Arm64",
        versions="Armv8.2 and later",
        finds=_unsigned,
    ),
)
