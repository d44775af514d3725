"""Time over a plain forward pass, and peak memory by number of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.calibrating.cells import Cells
from benchmarks.calibrating.quality_part import request_of
from benchmarks.calibrating.subjects import Subject
from benchmarks.calibrating.tools import STREAM, Tool, python_of
from benchmarks.calibrating.with_edgestill_stream import PASS
from benchmarks.tables import gigabytes, ratio, table

TOOLS = (
    Tool(STREAM, PASS, (PASS,)),
    *(Tool(STREAM, method, ("tensorrt",)) for method in ("minmax", "entropy")),
    *(Tool("onnxruntime", method, ("s8s8",)) for method in ("minmax", "entropy")),
    *(Tool("modelopt", method, ("s8s8",)) for method in ("max", "entropy")),
)
FLAT = 1.05
"""Of memory: the most over the least."""


def time_tables(
    cells: Cells,
    subjects: list[Subject],
    counts: tuple[int, ...],
    model_optimizer: Path | None,
    tools: tuple[Tool, ...] = TOOLS,
) -> Iterator[str]:
    """Calibrating, quantizing and writing one INT8 graph, everything imported before."""
    rows, memory = [], []
    for subject in subjects:
        for tool in tools:
            python = python_of(tool, model_optimizer)
            if python is None:
                continue
            found = [_measured(cells, subject, tool, count, python) for count in counts]
            rows.append((subject.title, tool.title, *(_over_forward(each) for each in found)))
            memory.append((subject.title, tool.title, *(_peak(each) for each in found), _flatness(found)))
    images = [f"{count} images" for count in counts]
    yield "\n### Time over a plain forward pass of the same images\n"
    yield from table(("network", "tool", *images), rows)
    yield "\n### Peak memory of the process\n"
    yield from table(("network", "tool", *images, "most over least"), memory)


def _measured(cells: Cells, subject: Subject, tool: Tool, count: int, python: Path) -> dict[str, Any]:
    out = cells.folder / "timed" / f"{subject.name}.{count}"
    request = request_of(tool, tool.schemes, subject, count, out, forward=True)
    return cells.result(
        f"time/{subject.name}/{tool.slug}.{count}", "benchmarks.calibrating.quantizing", request, python
    )


def _over_forward(found: dict[str, Any]) -> str:
    return _said(found) or ratio(found["seconds"] / found["forward_seconds"])


def _peak(found: dict[str, Any]) -> str:
    return _said(found) or gigabytes(found["peak_bytes"])


def _said(found: dict[str, Any]) -> str:
    if "error" not in found:
        return ""
    return "not measured" if found["error"] == "not measured" else "failed"


def _flatness(found: list[dict[str, Any]]) -> str:
    peaks = [each["peak_bytes"] for each in found if "error" not in each]
    if len(peaks) < 2:
        return ""
    grown = max(peaks) / min(peaks)
    return f"{ratio(grown)}{'' if grown <= FLAT else ', grows'}"
