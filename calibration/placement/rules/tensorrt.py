"""What is said of a node for TensorRT and TensorRT-RTX."""

from __future__ import annotations

from calibration.placement.rules.rule import Rule

_BUILT = "built with TensorRT-RTX 1.7 and its realized layers read: tests/calibration/placement/test_patterns.py"
_RECOMMENDED = "NVIDIA, 'Q/DQ placement recommendations': quantize what weighted operations read"
_TENSORRT = "TensorRT 10.3 to 11; TensorRT-RTX 1.7"

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
    reason="fused with the kernel of the operator before it, or with the one that requantizes",
    source=_BUILT,
    versions=_TENSORRT,
)
POOL_IN_INT8 = Rule(
    name="pool-in-int8",
    pattern="MaxPool whose result is read behind a Q alone, or by another such MaxPool",
    reason="has no Q/DQ of its own; TensorRT moves the Q behind it to before it, and so pools in INT8 all the same",
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
    pattern="LayerNormalization, Gelu, Sigmoid, Mul, HardSwish, PRelu and the like whose result is read behind a Q "
    "alone, itself or through the like",
    reason="computed in float inside the kernel that requantizes; a Q before it would cost one more pass",
    source=_BUILT,
    versions=_TENSORRT,
)
NO_INT8_TENSORRT = Rule(
    name="no-int8-operator",
    pattern="any other operator",
    reason="no convolution, product or residual add: only what these read gets Q/DQ",
    source=_RECOMMENDED,
    versions=_TENSORRT,
)
