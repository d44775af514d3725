"""Whether an exported graph computes what the network did: torch against onnxruntime, output by output."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import BATCH
from pipeline.errors import NotAcceptable


@dataclass(frozen=True)
class Tolerance:
    """|found - expected| <= atol + rtol * |expected|, element by element."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class OutputParity:
    """One output on one batch."""

    inputs: str
    """`real` or `random`."""
    batch_size: int
    sizes: Mapping[str, int]
    """Of the dynamic axes other than the batch."""
    output: str
    max_abs_error: float
    max_rel_error: float
    within: bool
    expected_shape: tuple[int, ...]
    found_shape: tuple[int, ...]


def compare(expected: NDArray[Any], found: NDArray[Any], tolerance: Tolerance) -> tuple[float, float, bool]:
    """(largest absolute error, largest relative error, whether all lie within the tolerance); NaN is never within."""
    if expected.shape != found.shape:
        return float("inf"), float("inf"), False
    # The difference of two float32 is exact in float64.
    gap = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    size = np.abs(expected.astype(np.float64))
    # An infinite expectation would forgive anything.
    within = bool((np.isfinite(size) & (gap <= tolerance.atol + tolerance.rtol * size)).all())
    relative = gap / np.maximum(size, np.finfo(np.float32).tiny)
    return float(gap.max(initial=0.0)), float(relative.max(initial=0.0)), within


class ReferenceSession:
    """onnxruntime on the CPU with no graph optimization: the graph as it is written."""

    def __init__(self, graph: Path, threads: int) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
        from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as HasNoKernel

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except (HasNoKernel, Fail, InvalidGraph) as error:
            raise NotAcceptable(f"{graph.name}: onnxruntime does not run it on a CPU: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; raises NotAcceptable where the graph does not run on these inputs."""
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))
        except (Fail, InvalidArgument, RuntimeException) as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise NotAcceptable(f"the exported graph does not run on {shapes}: {error}") from error


def _where(result: OutputParity) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in {BATCH: result.batch_size, **result.sizes}.items())


def _differs(result: OutputParity) -> str:
    if result.expected_shape != result.found_shape:
        return f"has shape {result.found_shape}, the network's has {result.expected_shape}"
    if not math.isfinite(result.max_abs_error):
        return "holds NaN or infinite values, in the graph or in the network"
    return f"differs by {result.max_abs_error:.3g} (relative {result.max_rel_error:.3g})"


def require_parity(results: Sequence[OutputParity], tolerance: Tolerance) -> None:
    """Raises NotAcceptable for the first output that differs, and says by how much."""
    for result in results:
        if not result.within:
            raise NotAcceptable(
                f"the exported graph does not compute what the network does: output '{result.output}' on "
                f"{result.inputs} inputs, {_where(result)}, {_differs(result)}; "
                f"allowed are atol {tolerance.atol:g} and rtol {tolerance.rtol:g} ([export] parity)"
            )
