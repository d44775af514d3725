"""TensorRT 10.3 to 11.x and TensorRT-RTX: one API, one path. Nothing of NVIDIA's is imported before it is needed."""

from __future__ import annotations

from engines.tensorrt.engine import TensorRT, TensorRTRTX

__all__ = ["TensorRT", "TensorRTRTX"]
