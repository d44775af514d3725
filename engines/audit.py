"""What was really built: realized layers, from the builder's log, the engine inspector or an optimized graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RealizedTensor:
    """A tensor between two realized layers: `dtype` in numpy's words (float32, float16, int8, uint8)."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    format: str = ""
    constant: bool = False


@dataclass(frozen=True)
class RealizedLayer:
    """One kernel (or node) of a built engine."""

    name: str
    kind: Literal["convolution", "matmul", "other"]
    operator: str
    """The runtime's own word for it."""
    inputs: tuple[RealizedTensor, ...]
    outputs: tuple[RealizedTensor, ...]
    onnx_nodes: tuple[str, ...] = ()
