"""The built-in recipe as a user runs it: seconds a stage, accuracy, latency, a second run, two folders byte by byte.

    .venv/bin/python benchmarks/main_job.py

Runs `edgestill run digits` twice in fresh folders (about two minutes in all) and prints Markdown.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAME_BYTES = (
    "01-teacher/teacher.safetensors",
    "02-distill/student.safetensors",
    "02-distill/baseline.safetensors",
    "03-export/model.onnx",
    "04-calibrate/sketches.npz",
    "04-calibrate/ranges.json",
    "04-calibrate/fp16.onnx",
    "04-calibrate/cpu.int8.onnx",
    "04-calibrate/tensorrt-rtx.int8.onnx",
    "05-build/cpu/fp32.onnx",
    "05-build/cpu/int8.onnx",
)
NO_CHANGE_RUNS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch, "a", "ws"), Path(scratch, "b", "elsewhere", "ws")
        for folder in (first, second):
            folder.parent.mkdir(parents=True)
        document, seconds = _run(first)
        print("\n".join(_tables(document, seconds)))
        print(f"\nA second run with nothing changed: {_no_change_seconds(first):.2f} s (median of {NO_CHANGE_RUNS})")
        _run(second)
        different = [name for name in SAME_BYTES if _digest(first / name) != _digest(second / name)]
        print(f"\nTwo runs in two folders: {len(SAME_BYTES) - len(different)} of {len(SAME_BYTES)} files identical")
        for name in different:
            print(f"  differs: {name}")


def _run(workspace: Path, *options: str) -> tuple[dict[str, Any], float]:
    started_s = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", "run", "digits", "--workspace", str(workspace), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=workspace.parent)
    if done.returncode not in (0, 1, 8):
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout), time.perf_counter() - started_s


def _no_change_seconds(workspace: Path) -> float:
    return statistics.median(_run(workspace, "--quiet")[1] for _ in range(NO_CHANGE_RUNS))


def _tables(document: dict[str, Any], seconds: float) -> Iterator[str]:
    report = document["report"]
    machine = report["machine"]
    yield f"{machine['cpu_model']}, {machine['logical_cores']} cores; whole command {seconds:.1f} s\n"
    yield "| stage | seconds |\n|---|---|"
    for stage in document["stages"]:
        yield f"| {stage['stage']} | {stage['seconds']:.1f} |"
    yield "\n| | parameters | test accuracy | 95 % interval |\n|---|---|---|---|"
    for step in report["chain"]:
        found = step["accuracy"]
        parameters = f"{step['parameters']:,}" if step["parameters"] else ""
        yield f"| {step['label']} | {parameters} | {found['value']:.2%} | {found['low']:.2%} to {found['high']:.2%} |"
    yield "\n| CPU engine | p50, ms |\n|---|---|"
    for engine in report["engines"]:
        if engine["latency"]:
            sizes = " / ".join(str(latency["batch_size"]) for latency in engine["latency"])
            times = " / ".join(f"{latency['p50_ms']:.3g}" for latency in engine["latency"])
            yield f"| {engine['precision']}, batch {sizes} | {times} |"
    yield "\n| INT8 over FP32 on the CPU | ratio of p50 | 95 % interval | |\n|---|---|---|---|"
    for engine in report["engines"]:
        for latency in engine["latency"]:
            if (ratio := latency["ratio_to_fp32"]) is not None:
                interval = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
                verdict = latency["versus_fp32"]
                yield f"| batch {latency['batch_size']} | {ratio['value']:.2f} | {interval} | {verdict} |"
    yield "\n| engine | size, kB | kernels | INT8 products | activation kB |\n|---|---|---|---|---|"
    for engine in report["engines"]:
        if (audit := engine["audit"]) is not None:
            yield (
                f"| {engine['target']} {engine['precision']} | {engine['bytes'] / 1e3:.0f} | {audit['kernels']} | "
                f"{audit['int8_products']} of {audit['products']} | {audit['activation_bytes'] / 1e3:.0f} |"
            )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
