"""A user's own small graph, its calibration data, and `edgestill quantize` of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser
from rich.console import Console

from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress

NETWORK = """
<ir_version: 8, opset_import: ["" : 18]>
own (float[N, 1, 8, 8] x) => (float[N, 3] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
    r2 = Relu (c2)
    p = GlobalAveragePool (r2)
    f = Flatten (p)
    y = Gemm (f, w3, b3)
}
"""
SHAPES = {"w1": (8, 1, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (8, 3), "b3": (3,)}


def network(text: str = NETWORK) -> onnx.ModelProto:
    """The graph with its weights."""
    random = np.random.default_rng(0)
    model = parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name) for name, shape in SHAPES.items()
    )
    return model


def samples(count: int = 20) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).normal(size=(count, 1, 8, 8)).astype(np.float32)


def saved(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # any array-like
    return path


def quantized(
    model: Path, data: Path, *families: str, method: str = "minmax", preprocess: Path | None = None
) -> Outcome:
    request = QuantizeRequest(model, data, families or ("cpu",), method, preprocess, model.parent / "out", 8, 1)
    return quantize(request, QuietProgress(), Cancellation())


def shown(outcome: Outcome, width: int = 80) -> str:
    stream = io.StringIO()
    outcome.show(Console(file=stream, width=width))
    return stream.getvalue()
