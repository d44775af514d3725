"""Accuracy of the digits student by method, with and without repair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.calibrating.cells import Cells
from benchmarks.calibrating.digits_student import student_subject
from benchmarks.calibrating.quality_part import quality
from benchmarks.calibrating.tools import FAMILIES, OURS, Tool
from benchmarks.tables import decibels, percent, table
from calibration import METHODS

REPAIRS = ("none", "auto")
TOOLS = tuple(
    Tool(OURS, method, ("cpu-avx2", "tensorrt"), ("--repair", repair), f"repair {repair}")
    for method in (*METHODS, "best")
    for repair in REPAIRS
)
PEERS = (
    *(Tool("onnxruntime", method, ("u8s7", "s8s8", "s8s8-inputs")) for method in ("minmax", "entropy", "percentile")),
    *(Tool("modelopt", method, ("s8s8",)) for method in ("max", "entropy")),
)
POINTS = 100


def student_tables(cells: Cells, model_optimizer: Path | None) -> Iterator[str]:
    """All calibration images; accuracy on all test images."""
    folder = cells.folder / "student"
    counts = cells.result(
        "trained/digits-student", "benchmarks.calibrating.digits_student", {"folder": str(folder), "threads": 1}
    )
    if "error" in counts:
        yield f"\ndigits student: {counts['error']}"
        return
    found = list(
        quality(
            cells, student_subject(folder), counts["calibration"], counts["test"], model_optimizer, (*TOOLS, *PEERS)
        )
    )
    for family in ("cpu-avx2", "tensorrt"):
        yield f"\n### Digits student, {family}: points of accuracy lost, agreement with FP32, SQNR in dB\n"
        fitting = [each for each in found if each.scheme in (family, *FAMILIES[family])]
        rows = []
        for each in fitting:
            figures = each.figures
            if "error" in figures:
                rows.append((each.tool.title, each.scheme, figures["error"][:80], "", ""))
                continue
            lost = (figures["fp32_accuracy"] - figures["accuracy"]) * POINTS
            shown = (f"{lost:+.2f}", percent(figures["agreement"]), decibels(figures["sqnr_db"]))
            rows.append((each.tool.title, each.scheme, *shown))
        yield from table(("tool", "graph", "points lost", "agreement", "SQNR"), rows)
