"""Output SQNR and agreement with FP32 of every tool, method and scheme."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.calibrating.cells import Cells
from benchmarks.calibrating.graph_quality import AS_RUN, AS_WRITTEN
from benchmarks.calibrating.subjects import Subject
from benchmarks.calibrating.tools import FAMILIES, OURS, TOOLS, Tool, python_of

BATCH_SIZE = 8


@dataclass(frozen=True)
class Quality:
    """One graph of one tool."""

    tool: Tool
    scheme: str
    figures: dict[str, Any]
    """What `graph_quality` found, or `error`."""


def quality(
    cells: Cells,
    subject: Subject,
    images: int,
    evaluation_images: int,
    model_optimizer: Path | None,
    tools: tuple[Tool, ...] = TOOLS,
) -> Iterator[Quality]:
    """One calibration pass a tool and method; every graph of it judged as written."""
    for tool in tools:
        python = python_of(tool, model_optimizer)
        if python is None:
            continue
        # onnxruntime stacks what its batches gave, which fails where the last one is smaller.
        count = images // BATCH_SIZE * BATCH_SIZE if tool.name == "onnxruntime" else images
        made = cells.result(
            f"quantized/{subject.name}/{tool.slug}{f'.{tool.schemes[0]}' if tool.options else ''}",
            "benchmarks.calibrating.quantizing",
            request_of(tool, tool.schemes, subject, count, graphs_folder(cells, subject)),
            python,
        )
        for scheme in tool.schemes:
            yield Quality(
                tool, scheme, made if "error" in made else _judged(cells, subject, tool, scheme, evaluation_images)
            )


def as_run(cells: Cells, subject: Subject, tool: Tool, scheme: str, images: int) -> dict[str, Any]:
    """The same with all of onnxruntime's optimizations: what this CPU answers, its saturation included."""
    return _judged(cells, subject, tool, scheme, images, AS_RUN)


def graphs_folder(cells: Cells, subject: Subject) -> Path:
    """Where the quantized graphs of a network are."""
    return cells.folder / "graphs" / subject.name


def graph_file(cells: Cells, subject: Subject, tool: Tool, scheme: str) -> Path:
    """As `quantizing.Job.file` names it."""
    return graphs_folder(cells, subject) / f"{tool.slug}.{scheme}.onnx"


def request_of(
    tool: Tool, schemes: tuple[str, ...], subject: Subject, images: int, out: Path, forward: bool = False
) -> dict[str, Any]:
    """A `quantizing.Job`."""
    return {
        "tool": tool.name,
        "method": tool.method,
        "schemes": schemes,
        "graph": str(subject.graph),
        "images": str(subject.calibration),
        "count": images,
        "batch_size": BATCH_SIZE,
        "threads": 1,
        "out": str(out),
        "name": tool.slug,
        "options": tool.options,
        "source": tool.source,
        "forward": forward,
    }


def _judged(
    cells: Cells, subject: Subject, tool: Tool, scheme: str, images: int, how: str = AS_WRITTEN
) -> dict[str, Any]:
    file = graph_file(cells, subject, tool, scheme)
    found = cells.result(
        f"quality/{subject.name}/{tool.slug}.{scheme}{'.as-run' if how == AS_RUN else ''}",
        "benchmarks.calibrating.graph_quality",
        {
            "graph": str(subject.graph),
            "images": str(subject.evaluation),
            "labels": None if subject.labels is None else str(subject.labels),
            "count": images,
            "threads": 1,
            "quantized": [(str(file), how)],
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "",
        },
    )
    return found if "error" in found else {**found[file.name], "fp32_accuracy": found.get("fp32_accuracy")}


def best(found: list[Quality], family: str, key: str, ours: bool, *, defaults: bool = False) -> Quality | None:
    """The best graph for a family of runtimes, of edgestill or of its peers."""
    schemes = (family,) if ours else FAMILIES[family][: 1 if defaults else None]
    fitting = [
        each
        for each in found
        if (each.tool.name == OURS) == ours and each.scheme in schemes and "error" not in each.figures
    ]
    return max(fitting, key=lambda each: float(each.figures[key]), default=None)
