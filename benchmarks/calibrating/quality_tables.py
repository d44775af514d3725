"""The best of edgestill beside the best of its peers, a family of runtimes at a time; then every figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibrating.quality_part import Quality, best
from benchmarks.calibrating.subjects import Subject
from benchmarks.calibrating.tools import FAMILIES, OURS
from benchmarks.tables import decibels, percent, table
from pipeline.tasks.intervals import share_difference

MORE_DB = 0.05
"""Below it two SQNR print the same."""


def quality_tables(found: Mapping[str, tuple[Subject, list[Quality]]]) -> Iterator[str]:
    """SQNR by family, then all."""
    for family in FAMILIES:
        yield f"\n### Output SQNR in dB and agreement with FP32, {family}\n"
        head = (
            "network",
            "edgestill",
            "best peer",
            "best peer at its defaults",
            "at least the best",
            "agreement: ours",
            "best peer's",
            "ours less the peer's, points",
            "in INT8: ours",
            "best peer's",
        )
        yield from table(head, [_row(subject, each, family) for subject, each in found.values()])
    yield "\n### Every graph: SQNR in dB, SQNR of what tells the images apart, agreement, multiply-adds in INT8\n"
    yield from table(("network", "tool", "graph", "SQNR", "apart", "agreement", "INT8"), _all(found))


def accuracy_tables(found: Mapping[str, tuple[Subject, list[Quality]]]) -> Iterator[str]:
    """Trained networks: accuracy on the labels, agreement with FP32."""
    for family in FAMILIES:
        yield f"\n### Trained on digits of 96x96: accuracy and agreement with FP32, {family}\n"
        head = (
            "network",
            "FP32",
            "edgestill",
            "best peer",
            "ours less the peer's, points",
            "worst peer",
            "agreement: ours",
            "best peer's",
            "SQNR: ours",
            "best peer's",
        )
        yield from table(head, [_accuracy_row(subject, each, family) for subject, each in found.values()])


def _row(subject: Subject, found: list[Quality], family: str) -> tuple[str, ...]:
    ours, peer, usual = (
        best(found, family, "sqnr_db", ours=True),
        best(found, family, "sqnr_db", ours=False),
        best(found, family, "sqnr_db", ours=False, defaults=True),
    )
    agreed = [best(found, family, "agreement", ours=mine) for mine in (True, False)]
    met = ""
    if ours is not None and peer is not None:
        met = "yes" if ours.figures["sqnr_db"] >= peer.figures["sqnr_db"] - MORE_DB else "no"
    shares = [_share(each, "int8_share") for each in (ours, peer)]
    words = map(_in_words, (ours, peer, usual))
    return (
        subject.title,
        *words,
        met,
        *(_share(each, "agreement") for each in agreed),
        _gained(agreed[0], agreed[1], "differ"),
        *shares,
    )


def _accuracy_row(subject: Subject, found: list[Quality], family: str) -> tuple[str, ...]:
    ours, peer = (best(found, family, "accuracy", ours=mine) for mine in (True, False))
    fitting = [each for each in found if each.tool.name != OURS and each.scheme in FAMILIES[family]]
    worst = min(
        (each for each in fitting if "accuracy" in each.figures),
        key=lambda each: float(each.figures["accuracy"]),
        default=None,
    )
    agreed = [best(found, family, "agreement", ours=mine) for mine in (True, False)]
    clean = [best(found, family, "sqnr_db", ours=mine) for mine in (True, False)]
    float_accuracy = next((each.figures["fp32_accuracy"] for each in found if "accuracy" in each.figures), None)
    return (
        subject.title,
        "" if float_accuracy is None else percent(float_accuracy),
        *(_share(each, "accuracy") for each in (ours, peer)),
        _gained(ours, peer, "wrong"),
        _share(worst, "accuracy"),
        *(_share(each, "agreement") for each in agreed),
        *(_in_words(each) for each in clean),
    )


def _gained(ours: Quality | None, peer: Quality | None, failed: str) -> str:
    """The difference of two shares of the same images, in percentage points, with its 95 % interval.

    `failed` is the figure that lists the images which are not in the share.
    """
    if ours is None or peer is None or not all(failed in each.figures for each in (ours, peer)):
        return ""
    found = share_difference(_passed(ours, failed), _passed(peer, failed))
    said = "equal" if found.low <= 0 <= found.high else "better" if found.low > 0 else "worse"
    return f"{said}: {100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _passed(quality: Quality, failed: str) -> NDArray[np.bool_]:
    """(images,): those that the figure does not list."""
    passed = np.ones(quality.figures["count"], np.bool_)
    passed[quality.figures[failed]] = False
    return passed


def _in_words(quality: Quality | None) -> str:
    if quality is None:
        return "none"
    scheme = "" if quality.tool.name == OURS else f" {quality.scheme}"
    name = quality.tool.setting if quality.tool.name == OURS else quality.tool.title
    return f"{decibels(quality.figures['sqnr_db'])} ({name}{scheme})"


def _share(quality: Quality | None, key: str) -> str:
    return "none" if quality is None else percent(quality.figures[key])


def _all(found: Mapping[str, tuple[Subject, list[Quality]]]) -> Iterator[tuple[str, ...]]:
    for subject, each in found.values():
        for quality in each:
            figures = quality.figures
            shown = (
                (figures["error"][:80], "", "", "")
                if "error" in figures
                else (
                    decibels(figures["sqnr_db"]),
                    decibels(figures["sqnr_apart_db"]),
                    percent(figures["agreement"]),
                    percent(figures["int8_share"]),
                )
            )
            yield (subject.title, quality.tool.title, quality.scheme, *shown)
