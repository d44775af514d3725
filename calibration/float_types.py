"""The 16-bit floating-point types that the float part of a graph may be in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper


@dataclass(frozen=True)
class FloatType:
    """One of them."""

    name: str
    """As ONNX writes it in `tensor(float16)`."""
    onnx: int
    """Of `TensorProto.DataType`."""
    words: str
    """What it is called in a sentence."""

    def rounded(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """The nearest numbers of this type."""
        return values.astype(helper.tensor_dtype_to_np_dtype(self.onnx))


HALF = FloatType("float16", TensorProto.FLOAT16, "half precision")
"""10 bits of mantissa, magnitudes up to 65,504."""

BFLOAT16 = FloatType("bfloat16", TensorProto.BFLOAT16, "bfloat16")
"""7 bits of mantissa, the magnitudes of float32."""
