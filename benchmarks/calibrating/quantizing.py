"""One tool quantizes one graph, in a process of its own: seconds, peak memory, and a forward pass to compare with.

    python -m benchmarks.calibrating.quantizing '{"tool": "edgestill", "method": "entropy", ...}'

Its last line of output is JSON. Runs in the environment of the tool, which may have nothing else of the project's.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibrating.image_file import read_batches
from engines.peak_memory import high_water_mark_bytes

TOOLS = {
    "edgestill": "benchmarks.calibrating.with_edgestill",
    "edgestill-stream": "benchmarks.calibrating.with_edgestill_stream",
    "onnxruntime": "benchmarks.calibrating.with_onnxruntime",
    "modelopt": "benchmarks.calibrating.with_model_optimizer",
}


@dataclass(frozen=True)
class Job:
    """What is quantized, how, from which images."""

    tool: str
    method: str
    schemes: tuple[str, ...]
    """Placement families of edgestill; types and settings of the peers."""
    graph: str
    images: str
    count: int
    batch_size: int
    threads: int
    out: str
    name: str
    """Of the tool with its method and options, for files."""
    options: tuple[str, ...] = ()
    """Of edgestill's command line."""
    forward: bool = False
    """Whether a plain forward pass over the same images is timed afterwards."""
    source: str = ""
    """What a result is measured again for where it changes."""

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """The calibration images."""
        return read_batches(Path(self.images), self.count, self.batch_size)

    def file(self, scheme: str) -> Path:
        """Where the graph of a scheme goes."""
        return Path(self.out) / f"{self.name}.{scheme}.onnx"


def main() -> None:
    asked = json.loads(sys.argv[1])
    job = Job(**{**asked, "schemes": tuple(asked["schemes"]), "options": tuple(asked["options"])})
    tool = importlib.import_module(TOOLS[job.tool])
    Path(job.out).mkdir(parents=True, exist_ok=True)
    tool.imports()  # not part of the time
    started_s = time.perf_counter()
    tool.quantize(job)
    seconds = time.perf_counter() - started_s
    # Read before the forward pass, which needs memory of its own.
    found: dict[str, Any] = {"seconds": seconds, "peak_bytes": high_water_mark_bytes(), "versions": tool.versions()}
    if job.forward:
        found["forward_seconds"] = forward_seconds(job)
    print(json.dumps(found))


def forward_seconds(job: Job) -> float:
    """Reading the images and running the FP32 graph on them, in batches as the calibration had them."""
    session, feed = float_session(job.graph, job.threads)
    session.run(None, {feed: next(job.batches())})
    started_s = time.perf_counter()
    for batch in job.batches():
        session.run(None, {feed: batch})
    return time.perf_counter() - started_s


def float_session(graph: str, threads: int) -> tuple[Any, str]:
    """With onnxruntime's own optimizations, and the name of its input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session, session.get_inputs()[0].name


if __name__ == "__main__":
    main()
