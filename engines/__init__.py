"""The runtimes by name; to add one, write its class and add a line here."""

from __future__ import annotations

from engines.base import PRECISIONS, Engine
from engines.onnxruntime import OnnxRuntime
from engines.tensorrt import TensorRT, TensorRTRTX

__all__ = ["ENGINES", "PRECISIONS"]

ENGINES: dict[str, Engine] = {
    "onnxruntime": OnnxRuntime(),
    "tensorrt": TensorRT(),
    "tensorrt-rtx": TensorRTRTX(),
}
