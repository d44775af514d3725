"""What operators cost onnxruntime on a CPU, in float and in 8 bits: numbers that decide a placement, not a latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import NodeProto

from calibration.graph import Graph, attribute

NOMINAL_SIZE = 28
"""Of a dynamic axis that is no batch: costs of both kinds grow with it alike."""


@dataclass(frozen=True)
class CpuCosts:
    """Nanoseconds on one thread.

    First by eye over 30 convolutions of MobileNetV3 and ResNet, then so that whole graphs come out: batch 1, AVX2,
    onnxruntime 1.32, 8 bits over float, measured / from these: ResNet-18 0.53 / 0.54, MobileNetV3-large all 8 bits
    1.11 / 1.06 and as placed 0.91 / 0.87, EfficientNet-B0 1.27 / 1.15 and 0.89 / 0.85, six depthwise convolutions
    2.02 / 2.16; chains of 4 and 12 tiny convolutions take 10 and 19 microseconds more in 8 bits.
    """

    float_product: float
    """Per multiply-add of a dense convolution or a product."""
    product: float
    """The same in 8 bits."""
    float_depthwise: float
    depthwise: float
    float_write: float
    """Per element of the result."""
    write: float
    """Per element of the result, which is requantized."""
    gather: float
    """Per kernel position and pixel of a dense 8-bit convolution, which copies its input together first."""
    quantize: float
    """Per element."""
    dequantize: float
    float_add: float
    add: float
    node: float = 2500.0
    """Of each Q and DQ, whatever its size."""
    launch: float = 800.0
    """Of each product in 8 bits, beyond that of a float one."""


_AVX2 = CpuCosts(
    float_product=0.031,
    product=0.0147,
    float_depthwise=0.095,
    depthwise=0.115,
    float_write=0.1,
    write=0.45,
    gather=3.0,
    quantize=0.50,
    dequantize=0.30,
    float_add=0.30,
    add=0.25,
)
# Not measured operator by operator: AVX2's, with products in the ratio that ResNet-18 has there (0.34 of FP32).
_DOT_PRODUCT = CpuCosts(
    float_product=0.016,
    product=0.005,
    float_depthwise=0.06,
    depthwise=0.08,
    float_write=0.08,
    write=0.25,
    gather=2.0,
    quantize=0.25,
    dequantize=0.15,
    float_add=0.2,
    add=0.17,
)
CPU_COSTS: Mapping[str, CpuCosts] = {"cpu-avx2": _AVX2, "cpu-vnni": _DOT_PRODUCT, "cpu-arm64": _DOT_PRODUCT}
"""By family."""


def elements(graph: Graph, tensor: str) -> int:
    """Of one sample: a batch counts as 1, another dynamic axis as `NOMINAL_SIZE`."""
    shape = graph.shape(tensor) or ()
    return math.prod(max(size or (1 if axis == 0 else NOMINAL_SIZE), 1) for axis, size in enumerate(shape))


def product_costs(graph: Graph, node: NodeProto, costs: CpuCosts) -> tuple[float, float]:
    """Nanoseconds of a Conv, Gemm or MatMul in float and in 8 bits."""
    written = elements(graph, node.output[0])
    shape = graph.shape(node.input[1]) or ()
    if node.op_type != "Conv":
        transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
        summed = shape[-1 if transposed else -2] if len(shape) > 1 else None
        multiplied = written * (summed or NOMINAL_SIZE)
        return (
            multiplied * costs.float_product + written * costs.float_write,
            multiplied * costs.product + written * costs.write + costs.launch,
        )
    per_element = math.prod(size or 1 for size in shape[1:])
    multiplied = written * per_element
    depthwise = attribute(node, "group", 1) > 1 and shape[1] == 1
    positions = math.prod(size or 1 for size in shape[2:])
    gathered = 0 if positions == 1 or depthwise else written // max(shape[0] or 1, 1) * positions
    in_float = costs.float_depthwise if depthwise else costs.float_product
    in_8_bits = costs.depthwise if depthwise else costs.product
    return (
        multiplied * in_float + written * costs.float_write,
        multiplied * in_8_bits + written * costs.write + gathered * costs.gather + costs.launch,
    )
