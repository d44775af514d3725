"""Output SQNR against the share of multiply-adds in INT8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.calibrating.cells import Cells
from benchmarks.calibrating.quality_part import Quality, quality
from benchmarks.calibrating.subjects import Subject
from benchmarks.calibrating.tools import FAMILIES, OURS, TOOLS, Tool
from benchmarks.tables import decibels, percent, table

NETWORKS = ("mobilenet-v3", "efficientnet-b0")
FAMILY, PEERS_FAMILY, METHOD = "tensorrt-rtx", "tensorrt", "percentile"
LEAST_DB = (12.5, 16, 20, 25)
AHEAD_DB = 2.0
"""That ours should be over the best peer at the peer's share."""
_OPTIONS = ("--repair", "auto")
WHOLE = Tool(OURS, METHOD, (FAMILY,), _OPTIONS, "repair auto")
POINTS = tuple(
    Tool(OURS, METHOD, (FAMILY,), (*_OPTIONS, "--min-sqnr", str(db)), f"at least {db} dB") for db in LEAST_DB
)
PEERS = tuple(tool for tool in TOOLS if tool.name != OURS)


def curve_tables(
    cells: Cells, subjects: list[Subject], images: int, evaluation_images: int, model_optimizer: Path | None
) -> Iterator[str]:
    """Of TensorRT-RTX: everything in INT8, then layers left in float until a least SQNR holds."""
    yield "\n### SQNR against the share of multiply-adds in INT8, tensorrt-rtx\n"
    rows: list[tuple[str, ...]] = []
    for subject in subjects:
        found = list(quality(cells, subject, images, evaluation_images, model_optimizer, (WHOLE, *POINTS, *PEERS)))
        ours = [each for each in found if each.tool.name == OURS and each.scheme == FAMILY]
        peers = [each for each in found if each.tool.name != OURS and each.scheme in FAMILIES[PEERS_FAMILY]]
        for each in sorted(ours, key=_share, reverse=True):
            rows.append((subject.title, each.tool.title, *_figures(each)))
        peer = max(peers, key=_db, default=None)
        whole = next(each for each in ours if each.tool == WHOLE)
        if peer is not None and "error" not in {**peer.figures, **whole.figures}:
            least = min(_share(peer), _share(whole))  # which lacks the output heads: the rules leave them in float
            at_its_share = [_db(each) for each in ours if _share(each) >= least]
            ahead = max(at_its_share, default=0.0) - _db(peer)
            verdict = f"ours at its share {ahead:+.1f} dB, {'met' if ahead >= AHEAD_DB else 'not met'}"
            rows.append((subject.title, f"best peer: {peer.tool.title} {peer.scheme} ({verdict})", *_figures(peer)))
    yield from table(("network", "tool", "SQNR in dB", "INT8"), rows)


def _figures(each: Quality) -> tuple[str, str]:
    if "error" in each.figures:
        return each.figures["error"][:80], ""
    return decibels(each.figures["sqnr_db"]), percent(each.figures["int8_share"])


def _db(each: Quality) -> float:
    return float(each.figures.get("sqnr_db", float("-inf")))


def _share(each: Quality) -> float:
    return float(each.figures.get("int8_share", 0.0))
