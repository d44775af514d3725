"""How near the answers of a quantized graph are to the FP32 graph's, in a process of its own.

    python -m benchmarks.calibrating.graph_quality '{"graph": "model.onnx", "quantized": ["int8.onnx"], ...}'

Its last line of output is JSON, one entry a quantized graph.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibrating.image_file import read_batches
from benchmarks.calibrating.int8_share import int8_share

AS_WRITTEN, AS_RUN = "disabled", "all"
"""Optimizations off: every Q and DQ is computed as it stands. All on: what this CPU does, saturation included."""


def main() -> None:
    asked = json.loads(sys.argv[1])
    images, count, threads = Path(asked["images"]), asked["count"], asked["threads"]
    expected = outputs(asked["graph"], images, count, AS_RUN, threads)
    labels = None if asked["labels"] is None else np.load(asked["labels"])[:count]
    found: dict[str, Any] = {}
    if labels is not None:
        found["fp32_accuracy"] = float((expected.argmax(1) == labels).mean())
    for path, how in asked["quantized"]:
        found[Path(path).name] = quality_of(Path(path), expected, images, labels, how, threads)
    print(json.dumps(found))


def quality_of(
    path: Path, expected: NDArray[np.float32], images: Path, labels: NDArray[Any] | None, how: str, threads: int
) -> dict[str, Any]:
    """SQNR in dB, shares that agree with FP32 and with the labels, which images do not, multiply-adds in INT8.

    Drawn weights give all images nearly the same answer. So a second SQNR and, where there are no labels, the agreement
    are those of a head whose bias takes that common answer away: of what tells the images apart.
    """
    seen = outputs(str(path), images, len(expected), how, threads)
    common = expected.mean(0) if labels is None else np.zeros_like(expected[0])
    differs = (seen - common).argmax(1) != (expected - common).argmax(1)  # (images, ...): of a mask, by pixel
    found: dict[str, Any] = {
        "sqnr_db": sqnr_db(expected, seen),
        "sqnr_apart_db": sqnr_db(expected - expected.mean(0), seen - expected.mean(0)),
        "agreement": float(1 - differs.mean()),
        "int8_share": int8_share(path),
        "count": len(seen),
    }
    if differs.ndim == 1:
        found["differ"] = np.flatnonzero(differs).tolist()
    if labels is not None:
        wrong = seen.argmax(1) != labels
        found |= {"accuracy": float(1 - wrong.mean()), "wrong": np.flatnonzero(wrong).tolist()}
    return found


def sqnr_db(expected: NDArray[np.float32], seen: NDArray[np.float32]) -> float:
    """10 log10(sum of squares of the FP32 outputs / sum of squares of the differences)."""
    noise = np.square(seen.astype(np.float64) - expected).sum()
    return math.inf if noise == 0 else float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise))


def outputs(graph: str, images: Path, count: int, how: str, threads: int, batch_size: int = 8) -> NDArray[np.float32]:
    """(count, classes, ...) of the graph's first output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {AS_WRITTEN: levels.ORT_DISABLE_ALL, AS_RUN: levels.ORT_ENABLE_ALL}[how]
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    found = [session.run(None, {feed: batch})[0] for batch in read_batches(images, count, batch_size)]
    return np.concatenate(found)


if __name__ == "__main__":
    main()
