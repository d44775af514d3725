"""CPU latency of INT8 graphs over FP32, all of a network in turns in one process."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.calibrating.cells import Cells
from benchmarks.calibrating.quality_part import graph_file, graphs_folder, request_of
from benchmarks.calibrating.subjects import Subject
from benchmarks.calibrating.tools import OURS, Tool
from benchmarks.tables import ratio, table

ROUNDS, MOST_SECONDS = 40, 60.0
FP32 = "FP32"
UNREPAIRED = Tool(OURS, "minmax", (), ("--repair", "none"), "repair none")
# The ranges do not change what is computed: one method a tool is enough.
GRAPHS = (
    (UNREPAIRED, "{family}"),
    (Tool("onnxruntime", "minmax", ()), "u8s8"),
    (Tool("onnxruntime", "minmax", ()), "u8s7"),
    (Tool("modelopt", "max", ()), "s8s8"),
)


def latency_tables(cells: Cells, subjects: list[Subject], images: int, family: str) -> Iterator[str]:
    """Of our graph, made here, and of those that the part `quality` left.

    Batch 1, one thread; each run over FP32's of the same round."""
    rows: list[tuple[str, ...]] = []
    ours = replace(UNREPAIRED, schemes=(family,))
    for subject in subjects:
        request = request_of(ours, ours.schemes, subject, images, graphs_folder(cells, subject))
        cells.result(f"quantized/{subject.name}/{ours.slug}.{family}", "benchmarks.calibrating.quantizing", request)
        times = _times(cells, subject, family)
        if FP32 not in times:
            rows.append((subject.title, "not measured"))
            continue
        ratios = {name: _paired(each, times[FP32])[1] for name, each in times.items() if name != FP32}
        rows.append(
            (subject.title, f"{statistics.median(times[FP32]):.1f} ms", *map(ratio, ratios.values()), _verdict(times))
        )
    names = [_name(tool, scheme.format(family=family)) for tool, scheme in GRAPHS]
    yield f"\n### CPU latency of the INT8 graph over FP32 ({family}, batch 1, one thread, medians of paired ratios)\n"
    yield from table(("network", FP32, *names, "ours over the fastest peer's"), rows)


def _verdict(times: dict[str, list[float]]) -> str:
    """Ours over the fastest peer, with the interval of the median."""
    peers = {
        name: statistics.median(each) for name, each in times.items() if name != FP32 and not name.startswith(OURS)
    }
    own = next((each for name, each in times.items() if name.startswith(OURS)), None)
    if own is None or not peers:
        return ""
    low, middle, high = _paired(own, times[min(peers, key=lambda name: peers[name])])
    said = "faster" if high < 1 else "slower" if low > 1 else "equal"
    return f"{said}: {ratio(middle)} [{ratio(low)}, {ratio(high)}]"


def _paired(times: list[float], others: list[float]) -> tuple[float, float, float]:
    """Median over the rounds of one time over the other of its round, between the ends of its 95 % interval."""
    ratios = sorted(one / other for one, other in zip(times, others, strict=True))
    reach = 0.98 * math.sqrt(len(ratios))  # 1.96 deviations of the binomial rank
    low, high = (round(len(ratios) / 2 + way * reach) for way in (-1, 1))
    return ratios[max(low, 0)], statistics.median(ratios), ratios[min(high, len(ratios) - 1)]


def _times(cells: Cells, subject: Subject, family: str) -> dict[str, list[float]]:
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
    found = cells.result(f"latency/{subject.name}", "benchmarks.calibrating.graph_latency", request)
    return {name: times for name, times in found.items() if isinstance(times, list) and times}


def _file(cells: Cells, subject: Subject, tool: Tool, scheme: str, family: str) -> Path:
    return graph_file(cells, subject, tool, scheme.format(family=family))


def _name(tool: Tool, scheme: str) -> str:
    return f"{OURS if tool.name == OURS else tool.title} {scheme}"
