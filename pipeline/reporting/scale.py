"""Axes: from a value to a place in percent of a plot's width, and where the ticks stand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

NARROWEST_METRIC = 1e-4


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def percent(self, value: float) -> float:
        """0 at the low end, 100 at the high end; a value outside lands on the end that it passed."""
        return min(max(self.share(max(value, self.low)), 0.0), 1.0) * 100

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end; under 0 and over 1 outside."""
        if self.logarithmic:
            # Differences of logarithms: a quotient of a large and a tiny number would overflow.
            low = math.log(self.low)
            return (math.log(value) - low) / (math.log(self.high) - low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(
    values: Iterable[float], floor: float = -math.inf, ceiling: float = math.inf, intervals: int = 4
) -> Axis:
    """Round ticks around the values, never past floor or ceiling."""
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    magnitude = max(abs(low), abs(high), 1e-9)
    # Values that differ only by rounding would ask for ticks closer than floats can tell apart.
    step = _round_step((high - low if high - low > magnitude * 1e-9 else magnitude) / intervals)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    ticks = [index * step for index in range(first, last + 1)]
    inside = tuple(tick for tick in ticks if floor - step / 1e6 <= tick <= ceiling + step / 1e6)
    return Axis(max(ticks[0], floor), min(ticks[-1], ceiling), inside)


def metric_axis(values: Iterable[float], intervals: int = 4) -> Axis:
    """For fractions of 1, none above it; only where a value is negative does the axis go below zero."""
    known = list(values) or [0.0, 1.0]
    floor = -math.inf if min(known) < 0 else 0.0
    if max(known) - min(known) < NARROWEST_METRIC:
        # Ticks that are closer than the digits of a percentage would all read the same.
        known += [max(min(known) - 5 * NARROWEST_METRIC, floor), min(max(known) + 5 * NARROWEST_METRIC, 1.0)]
    return linear_axis(known, floor, 1.0, intervals)


def axis_from_zero(high: float) -> Axis:
    """Exactly from zero to `high`, so that the longest bar fills its row."""
    high = high if high > 0 else 1.0
    return Axis(0.0, high, tuple(tick for tick in linear_axis([0.0, high]).ticks if tick <= high))


def logarithmic_axis(values: Iterable[float]) -> Axis:
    """Air at both ends; ticks at 1, 2 and 5 times powers of ten, or evenly where fewer than two of those are inside."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = min(known) / 1.25, max(known) * 1.25
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    for candidates in (ticks, linear_axis([low, high]).ticks):
        inside = tuple(tick for tick in candidates if low <= tick <= high)
        if len(inside) > 1:
            break
    return Axis(low, high, inside, logarithmic=True)


def sparse_logarithmic_axis(values: Iterable[float], most: int = 5) -> Axis:
    """As `logarithmic_axis`, for a small drawing: no more ticks than `most`, powers of ten where they are enough."""
    axis = logarithmic_axis(values)
    powers = tuple(tick for tick in axis.ticks if abs(math.log10(tick) - round(math.log10(tick))) < 1e-9)
    ticks = powers if len(axis.ticks) > most and len(powers) > 1 else axis.ticks
    return replace(axis, ticks=ticks[:: math.ceil(len(ticks) / most)])


def _round_step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= rough * (1 - 1e-9))
