"""Whether an exported graph computes what the network did: torch against onnxruntime, output by output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    output: str
    max_abs_error: float
    max_rel_error: float
    within: bool


def compare(expected: NDArray[Any], found: NDArray[Any], tolerance: Tolerance) -> tuple[float, float, bool]:
    """(largest absolute error, largest relative error, whether all lie within the tolerance); NaN is never within."""
    if expected.shape != found.shape:
        return float("inf"), float("inf"), False
    # The difference of two float32 is exact in float64.
    gap = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    size = np.abs(expected.astype(np.float64))
    within = bool((gap <= tolerance.atol + tolerance.rtol * size).all())
    relative = gap / np.maximum(size, np.finfo(np.float32).tiny)
    return float(gap.max(initial=0.0)), float(relative.max(initial=0.0)), within


def reference_outputs(graph: Path, feeds: Mapping[str, NDArray[Any]], threads: int) -> dict[str, NDArray[Any]]:
    """What onnxruntime computes on the CPU with no graph optimization: the graph as it is written."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def require_parity(results: Sequence[OutputParity], tolerance: Tolerance) -> None:
    """Raises NotAcceptable for the first output that differs, and says by how much."""
    for result in results:
        if not result.within:
            raise NotAcceptable(
                f"the exported graph differs from the network: output '{result.output}' on {result.inputs} inputs, "
                f"batch {result.batch_size}, by {result.max_abs_error:.3g} (relative {result.max_rel_error:.3g}); "
                f"allowed are atol {tolerance.atol:g} and rtol {tolerance.rtol:g} ([export] parity)"
            )
