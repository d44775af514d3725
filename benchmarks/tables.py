"""Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

GIGA = 1e9


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, a line at a time."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def decibels(value: float) -> str:
    return f"{value:.1f}"


def percent(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def ratio(value: float) -> str:
    return f"{value:.2f}"


def gigabytes(value: float) -> str:
    return f"{value / GIGA:.2f} GB"
