"""The runtimes by name; to add one, write its class and add a line here."""

from __future__ import annotations

from engines.base import Engine
from engines.onnxruntime import OnnxRuntime
from engines.tensorrt import TensorRT, TensorRTRTX

ENGINES: dict[str, Engine] = {
    "onnxruntime": OnnxRuntime(),
    "tensorrt": TensorRT(),
    "tensorrt-rtx": TensorRTRTX(),
}

PRECISIONS = ("fp32", "fp16", "int8")
"""What a target may be asked for, the reference first."""
