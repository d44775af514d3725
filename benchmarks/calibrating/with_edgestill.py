"""`edgestill quantize` as a tool to be measured: the command itself, as a user gives it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.calibrating.quantizing import Job


def imports() -> None:
    """The command has a process of its own."""


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("edgestill", "onnxruntime")}


def quantize(job: Job) -> None:
    """One pass for all families."""
    import onnx

    feed = onnx.load(job.graph, load_external_data=False).graph.input[0].name
    data = Path(job.out) / f"{job.name}.npz"
    np.savez(data, **{feed: np.concatenate(list(job.batches()))})  # type: ignore[arg-type] # its stub has another keyword
    families = [option for family in job.schemes for option in ("--family", family)]
    command = [sys.executable, "-m", "pipeline", "quantize", job.graph, "--data", str(data), "--method", job.method]
    out = Path(job.out) / job.name
    settings = ["--out", str(out), "--batch-size", str(job.batch_size), "--threads", str(job.threads), "--quiet"]
    subprocess.run([*command, *families, *settings, *job.options], check=True, stdout=subprocess.DEVNULL)
    data.unlink()
    for family in job.schemes:
        (out / f"{Path(job.graph).stem}.{family}.int8.onnx").replace(job.file(family))
