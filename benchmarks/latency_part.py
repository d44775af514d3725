"""CPU latency of INT8 graphs over FP32, all of a network in turns in one process."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cells import Cells
from benchmarks.quality_part import graph_file
from benchmarks.subjects import Subject
from benchmarks.tables import ratio, table
from benchmarks.tools import OURS, TUNED, Tool

ROUNDS, MOST_SECONDS = 40, 60.0
FP32 = "FP32"
# The ranges do not change what is computed: one method a tool is enough.
GRAPHS = (
    (TUNED, "{family}"),
    (Tool("onnxruntime", "minmax", ()), "u8s8"),
    (Tool("onnxruntime", "minmax", ()), "u8s7"),
    (Tool("modelopt", "max", ()), "s8s8"),
)


def latency_tables(cells: Cells, subjects: list[Subject], family: str) -> Iterator[str]:
    """Median of batch 1, one thread, over the median of FP32 in the same process."""
    rows: list[tuple[str, ...]] = []
    for subject in subjects:
        found = _medians(cells, subject, family)
        if FP32 not in found:
            rows.append((subject.title, "not measured"))
            continue
        others = {name: value / found[FP32] for name, value in found.items() if name != FP32}
        peers = [value for name, value in others.items() if not name.startswith(OURS)]
        ours = next((value for name, value in others.items() if name.startswith(OURS)), None)
        faster = "" if ours is None or not peers else ("yes" if ours <= min(peers) else "no")
        rows.append((subject.title, f"{found[FP32]:.1f} ms", *map(ratio, others.values()), faster))
    names = [_name(tool, scheme.format(family=family)) for tool, scheme in GRAPHS]
    yield f"\n### CPU latency of the INT8 graph over FP32 ({family}, batch 1, one thread, medians)\n"
    yield from table(("network", FP32, *names, "ours no slower"), rows)


def _medians(cells: Cells, subject: Subject, family: str) -> dict[str, float]:
    files = {
        _name(tool, scheme.format(family=family)): _file(cells, subject, tool, scheme, family)
        for tool, scheme in GRAPHS
    }
    graphs = {FP32: str(subject.graph), **{name: str(file) for name, file in files.items() if file.is_file()}}
    request = {
        "graphs": graphs,
        "images": str(subject.evaluation),
        "rounds": ROUNDS,
        "seconds": MOST_SECONDS,
        "threads": 1,
    }
    found = cells.result(f"latency/{subject.name}", "benchmarks.graph_latency", request)
    return {name: statistics.median(times) for name, times in found.items() if isinstance(times, list) and times}


def _file(cells: Cells, subject: Subject, tool: Tool, scheme: str, family: str) -> Path:
    return graph_file(cells, subject, tool, scheme.format(family=family))


def _name(tool: Tool, scheme: str) -> str:
    return f"{OURS if tool.name == OURS else tool.title} {scheme}"
