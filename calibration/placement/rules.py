"""Why a node is quantized or not, as data: what a rule looks at, what it says, who says so, and for which versions."""

from __future__ import annotations

from dataclasses import dataclass

_BUILT = "built with TensorRT-RTX 1.7 and its realized layers read: tests/calibration/test_patterns.py"
_OPTIMIZED = "the graph that onnxruntime 1.32 optimizes, read: tests/calibration/test_placement.py"
_TENSORRT = "TensorRT 10.3 to 11; TensorRT-RTX 1.7"
_ORT = "onnxruntime 1.23 and later"
_ALL = "all"


@dataclass(frozen=True)
class Rule:
    """One line of the table below."""

    name: str
    pattern: str
    """What it looks at."""
    reason: str
    """What is said of a node, with the details of the node in braces."""
    source: str
    versions: str

    def says(self, **details: object) -> Verdict:
        """The rule, applied to one node."""
        return Verdict(self.name, self.reason.format(**details))


@dataclass(frozen=True)
class Verdict:
    """What a rule says of one node."""

    rule: str
    reason: str


SPARED = Rule(
    name="spared",
    pattern="any node that the caller names",
    reason="{why}",
    source="the caller: an accuracy budget, a command line",
    versions=_ALL,
)

# Of every family.
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
    source=_OPTIMIZED,
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

# Of TensorRT.
BOTH_OPERANDS = Rule(
    name="both-operands",
    pattern="Conv, Gemm or MatMul with both operands behind Q/DQ",
    reason="both operands in INT8",
    source=_BUILT,
    versions=_TENSORRT,
)
SMALL_PRODUCT = Rule(
    name="small-product",
    pattern="Gemm or MatMul with K or N below 16",
    reason="a product with a dimension of {size}, below 16: INT8 would be padded",
    source="NVIDIA/TensorRT issues 3197 and 4554; INT8 tensor cores multiply tiles of 16",
    versions=_TENSORRT,
)
RESIDUAL_SKIP = Rule(
    name="residual-skip",
    pattern="Add behind an INT8 convolution, the skip already behind a DQ",
    reason="fused into {conv}; the skip is read in INT8",
    source="NVIDIA, 'Q/DQ placement recommendations': residual connections; " + _BUILT,
    versions=_TENSORRT,
)
RESIDUAL_FLOAT = Rule(
    name="residual-float-skip",
    pattern="Add behind an INT8 convolution, nothing else reads the skip in INT8",
    reason="fused into {conv}; the skip is in float, as it comes",
    source=_BUILT,
    versions=_TENSORRT,
)
ADD_OF_FLOATS = Rule(
    name="add-of-floats",
    pattern="Add that no INT8 convolution ends in",
    reason="no INT8 convolution ends in it",
    source=_BUILT,
    versions=_TENSORRT,
)
FUSED_ACTIVATION = Rule(
    name="fused-activation",
    pattern="Relu or Clip",
    reason="fused with the kernel of the operator before it",
    source=_BUILT,
    versions=_TENSORRT,
)
POOL_IN_INT8 = Rule(
    name="pool-in-int8",
    pattern="MaxPool before a Q",
    reason="TensorRT moves the Q behind it to before it, and pools in INT8",
    source=_BUILT,
    versions=_TENSORRT,
)
TRANSPOSED_CONVOLUTION = Rule(
    name="transposed-convolution",
    pattern="ConvTranspose",
    reason="TensorRT runs it in float whatever surrounds it",
    source=_BUILT,
    versions=_TENSORRT,
)
REQUANTIZING_KERNEL = Rule(
    name="requantizing-kernel",
    pattern="LayerNormalization, Gelu, Sigmoid, Mul, HardSwish, PRelu and the like before a Q",
    reason="computed in float inside the kernel that requantizes; a Q before it would cost one more pass",
    source=_BUILT,
    versions=_TENSORRT,
)
NO_INT8_TENSORRT = Rule(
    name="no-int8-operator",
    pattern="any other operator",
    reason="TensorRT has no INT8 {operator} that would pay",
    source=_BUILT,
    versions=_TENSORRT,
)

# Of DLA.
_DLA = "NVIDIA TensorRT documentation, 'DLA Supported Layers and Restrictions'"
_DLA_VERSIONS = "Jetson: TensorRT 8.6 to 10.7, and 11.4.1 on AGX Orin"
DLA_CONVOLUTION = Rule(
    name="dla-convolution",
    pattern="two-dimensional Conv within the limits of DLA",
    reason="INT8 in and out on the accelerator",
    source=_DLA,
    versions=_DLA_VERSIONS,
)
DLA_LAYER = Rule(
    name="dla-layer",
    pattern="activation, pooling, element-wise operator or Concat of four dimensions behind INT8 layers",
    reason="{operator} in INT8 on the accelerator: each tensor between its layers has a scale",
    source=_DLA,
    versions=_DLA_VERSIONS,
)
DLA_LIMITS = Rule(
    name="dla-limits",
    pattern="convolution or pooling beyond the limits of DLA",
    reason="DLA does not take it ({limit}); it runs on the GPU in float",
    source=_DLA,
    versions=_DLA_VERSIONS,
)
NO_DLA = Rule(
    name="no-dla-layer",
    pattern="any other operator",
    reason="DLA has no INT8 {operator}; it runs on the GPU, or on DLA in FP16, in float",
    source=_DLA,
    versions=_DLA_VERSIONS,
)

# Of onnxruntime on a CPU.
CONVOLUTION_8_BITS = Rule(
    name="convolution-8-bits",
    pattern="DQ -> Conv [-> Relu or Clip] -> Q",
    reason="8 bits in and out: QLinearConv, with the Relu or Clip behind it",
    source=_OPTIMIZED,
    versions=_ORT,
)
PRODUCT_8_BITS = Rule(
    name="product-8-bits",
    pattern="DQ -> Gemm or MatMul -> Relu or Clip -> Q",
    reason="8 bits in and out, with the Relu or Clip behind it",
    source=_OPTIMIZED,
    versions=_ORT,
)
PRODUCT_TO_FLOAT = Rule(
    name="product-to-float",
    pattern="DQ -> Gemm or MatMul",
    reason="8-bit operands, float result: an integer product that scales as it writes",
    source=_OPTIMIZED,
    versions=_ORT,
)
MOVES_8_BITS = Rule(
    name="moves-8-bits",
    pattern="operator that only moves values, behind a DQ",
    reason="moves 8-bit values and keeps their scale",
    source=_OPTIMIZED,
    versions=_ORT,
)
JOINS_8_BITS = Rule(
    name="joins-8-bits",
    pattern="DQs -> Add or Concat -> Q",
    reason="QLinear{operator}: all it reads is in 8 bits already",
    source=_OPTIMIZED,
    versions=_ORT,
)
CUT_BY_ZERO_POINT = Rule(
    name="cut-by-zero-point",
    pattern="Relu or Clip between an 8-bit convolution and its Q",
    reason="part of {before}: its zero-point does the cutting",
    source=_OPTIMIZED,
    versions=_ORT,
)
FASTER_IN_FLOAT = Rule(
    name="faster-in-float",
    pattern="product that wins less in 8 bits than its Q and DQ cost, such as one between HardSwishes",
    reason="faster in float on {family}: 8 bits would win less than the passes around it cost",
    source="costs per operator measured with onnxruntime 1.32 on AVX2 (cpu_costs.py), minimum cut",
    versions=_ORT,
)
GRAPH_OUTPUT = Rule(
    name="graph-output",
    pattern="operator that writes an output of the graph",
    reason="its result is an output of the graph, which is float",
    source="outputs keep their type",
    versions=_ALL,
)
READ_IN_FLOAT = Rule(
    name="read-in-float",
    pattern="Add or Concat before float operators alone",
    reason="only float operators read its result: rounding it to 8 bits would cost and win nothing",
    source=_OPTIMIZED,
    versions=_ORT,
)
NO_8_BIT_CPU = Rule(
    name="no-8-bit-operator",
    pattern="any other operator",
    reason="onnxruntime has no 8-bit {operator} that would pay here",
    source=_OPTIMIZED,
    versions=_ORT,
)

RULES: dict[str, Rule] = {rule.name: rule for rule in list(globals().values()) if isinstance(rule, Rule)}
"""By name; `placement.json` carries the name of the rule that decided each node."""
