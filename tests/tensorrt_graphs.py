"""Small graphs for TensorRT's tests, as ONNX text with their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from engines.base import AxisProfile, Target
from engines.tensorrt import TensorRTRTX

RTX = TensorRTRTX()
TARGET = Target("rtx", "tensorrt-rtx", batch=AxisProfile(1, 2, 4))
_MISSING = RTX.why_not_build(TARGET)
needs_tensorrt_rtx = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))

PLAIN = """
  [conv1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
  [relu1] r = Relu(a)
  [conv2] c = Conv<pads=[1,1,1,1]>(r, w2, b1)
  [add] s = Add(c, r)
  [relu2] t = Relu(s)
  [pool] y = GlobalAveragePool(t)
"""
# Both operands of conv1 and conv2 go through Q/DQ, the residual stays in float.
QUANTIZED = """
  xq = QuantizeLinear(x, one, zero)
  xd = DequantizeLinear(xq, one, zero)
  w1q = QuantizeLinear<axis=0>(w1, many, zeros)
  w1d = DequantizeLinear<axis=0>(w1q, many, zeros)
  [conv1] a = Conv<pads=[1,1,1,1]>(xd, w1d, b1)
  [relu1] r = Relu(a)
  rq = QuantizeLinear(r, one, zero)
  rd = DequantizeLinear(rq, one, zero)
  w2q = QuantizeLinear<axis=0>(w2, many, zeros)
  w2d = DequantizeLinear<axis=0>(w2q, many, zeros)
  [conv2] c = Conv<pads=[1,1,1,1]>(rd, w2d, b1)
  [add] s = Add(c, r)
  [relu2] t = Relu(s)
  [pool] y = GlobalAveragePool(t)
"""


def weights(dtype: type[np.generic] = np.float32) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(0)
    return {
        "w1": random.standard_normal((16, 16, 3, 3)).astype(dtype),
        "w2": random.standard_normal((16, 16, 3, 3)).astype(dtype),
        "b1": np.zeros(16, dtype),
    }


def quantization(zero: int = 0, zero_type: type[np.integer] = np.int8) -> dict[str, NDArray[np.generic]]:
    return {
        "one": np.array(0.05, np.float32),
        "zero": np.array(zero, zero_type),
        "many": np.full(16, 0.02, np.float32),
        "zeros": np.zeros(16, np.int8),
    }


def written(
    folder: Path,
    nodes: str,
    constants: Mapping[str, NDArray[np.generic]],
    dtype: str = "float",
    x: str = "N,16,8,8",
    opset: int = 18,
) -> Path:
    """An ONNX file of one input x and one output y."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({dtype}[{x}] x) => ({dtype}[N,?,?,?] y) {{ {nodes} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"
