"""What is said of a node whatever runtime it is for."""

from __future__ import annotations

from calibration.placement.rules.rule import OPTIMIZED, Rule

_ALL = "all"

SPARED = Rule(
    name="spared",
    pattern="any node that the caller names",
    reason="{why}",
    source="the caller: an accuracy budget, a command line",
    versions=_ALL,
)
CONTROL_FLOW = Rule(
    name="control-flow",
    pattern="If, Loop, Scan and the like",
    reason="it holds a subgraph, which stays in float",
    source="ranges are measured in the main graph alone",
    versions=_ALL,
)
UNKNOWN_OPERATOR = Rule(
    name="unknown-operator",
    pattern="operator of a domain other than ONNX's",
    reason="{domain}.{operator} is no operator of ONNX, so what it makes of rounded values is unknown",
    source="ONNX operator sets",
    versions=_ALL,
)
NOT_FLOAT = Rule(
    name="not-float32",
    pattern="product whose operands are no float32",
    reason="its operands are not known to be float32",
    source="ONNX QuantizeLinear",
    versions=_ALL,
)
CONSTANT_FIRST = Rule(
    name="constant-first",
    pattern="product of a constant and an activation",
    reason="its first operand is a constant; INT8 kernels take constants as the second one",
    source=OPTIMIZED,
    versions=_ALL,
)
RUN_TIME_WEIGHT = Rule(
    name="run-time-weight",
    pattern="Conv or Gemm whose weight is no constant",
    reason="its weight is computed at run time",
    source="calibration ranges weights from the file",
    versions=_ALL,
)
WEIGHT_RANK = Rule(
    name="weight-rank",
    pattern="MatMul by a constant of another rank than 2",
    reason="its constant operand has rank {rank}; a weight has 2",
    source="ONNX MatMul: scales of stacked matrices have no single axis",
    versions=_ALL,
)
GEMM_FACTORS = Rule(
    name="gemm-factors",
    pattern="Gemm with alpha, beta or transA",
    reason="it has alpha, beta or transA, which INT8 kernels do not take",
    source="onnxruntime QGemm; TensorRT IMatrixMultiplyLayer",
    versions=_ALL,
)
OUTPUT_HEAD = Rule(
    name="output-head",
    pattern="product whose result becomes an output with element-wise work alone between",
    reason="output head: rounding here reaches the answer directly, and it costs little in float",
    source="NVIDIA/TensorRT issue 1179; ultralytics issue 20909",
    versions=_ALL,
)
GRAPH_OUTPUT = Rule(
    name="graph-output",
    pattern="operator that writes an output of the graph",
    reason="its result is an output of the graph, which is float",
    source="outputs keep their type",
    versions=_ALL,
)
