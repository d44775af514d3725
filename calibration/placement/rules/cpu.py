"""What is said of a node for onnxruntime on a CPU."""

from __future__ import annotations

from calibration.placement.rules.rule import OPTIMIZED, Rule

_ORT = "onnxruntime 1.23 and later"

CONVOLUTION_8_BITS = Rule(
    name="convolution-8-bits",
    pattern="DQ -> Conv [-> Relu or Clip] -> Q",
    reason="8 bits in and out: QLinearConv, with the Relu or Clip behind it",
    source=OPTIMIZED,
    versions=_ORT,
)
PRODUCT_8_BITS = Rule(
    name="product-8-bits",
    pattern="DQ -> Gemm or MatMul -> Relu or Clip -> Q",
    reason="8 bits in and out, with the Relu or Clip behind it",
    source=OPTIMIZED,
    versions=_ORT,
)
PRODUCT_TO_FLOAT = Rule(
    name="product-to-float",
    pattern="DQ -> Gemm or MatMul",
    reason="8-bit operands, float result: an integer product that scales as it writes",
    source=OPTIMIZED,
    versions=_ORT,
)
LARGE_HEAD = Rule(
    name="large-output-head",
    pattern="DQ -> Gemm or MatMul with 262,144 weights or more, whose result becomes an output",
    reason="output head whose weights are read from memory for each sample: 8-bit operands, float result",
    source="onnxruntime 1.32, AVX2, batch 1: 0.7 % of a ResNet-50's time, 1.5 % and a third of the file of a RepVGG-A0",
    versions=_ORT,
)
MOVES_8_BITS = Rule(
    name="moves-8-bits",
    pattern="operator that only moves values, behind a DQ",
    reason="moves 8-bit values and keeps their scale",
    source=OPTIMIZED,
    versions=_ORT,
)
JOINS_8_BITS = Rule(
    name="joins-8-bits",
    pattern="DQs -> Add or Concat -> Q",
    reason="QLinear{operator}: all it reads is in 8 bits already",
    source=OPTIMIZED,
    versions=_ORT,
)
CUT_BY_ZERO_POINT = Rule(
    name="cut-by-zero-point",
    pattern="Relu or Clip between an 8-bit convolution and its Q",
    reason="part of {before}: its zero-point does the cutting",
    source=OPTIMIZED,
    versions=_ORT,
)
FASTER_IN_FLOAT = Rule(
    name="faster-in-float",
    pattern="product that wins less in 8 bits than its Q and DQ cost, such as one between HardSwishes",
    reason="faster in float on {family}: 8 bits would win less than the passes around it cost",
    source="costs per operator measured with onnxruntime 1.32 on AVX2 (cpu_costs.py), minimum cut",
    versions=_ORT,
)
READ_IN_FLOAT = Rule(
    name="read-in-float",
    pattern="Add or Concat before float operators alone",
    reason="only float operators read its result: rounding it to 8 bits would cost and win nothing",
    source=OPTIMIZED,
    versions=_ORT,
)
NO_8_BIT_CPU = Rule(
    name="no-8-bit-operator",
    pattern="any other operator",
    reason="onnxruntime has no 8-bit {operator} that would pay here",
    source=OPTIMIZED,
    versions=_ORT,
)
