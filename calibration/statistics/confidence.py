"""How sure a calibration is of its ranges: intervals, and images that alone set one.

The interval of either end of a range is the percentile interval of resampling.py. A tensor is as loose as
half of the wider of them is, over the amax of its range. A scale that is `TOLERANCE` too large adds
20 log10(1.1) = 0.8 dB of rounding noise at most, and less where what a smaller range cuts off weighs against it.

An image alone sets a range where no other image reaches more than `1 - ALONE_SHARE` of it: without the image the range
would be that much narrower, or its amax lower, whatever the method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from calibration.methods.method import Method, Range
from calibration.statistics.extremes import Peak
from calibration.statistics.resampling import LEAST_GROUPS, RESAMPLES, Resampled
from calibration.statistics.sketch import Sketch

TOLERANCE = 0.1
"""Of a range's amax, either way: a range within is tight."""
TIGHT_SHARE = 0.95
"""Of the tensors: with so many tight, a calibration is."""
ALONE_SHARE = 0.2
"""Of a range: an image that widens it by more than this is named."""


@dataclass(frozen=True)
class Interval:
    """Where the ends of a range would lie for other images, as many, with 90 % confidence."""

    low: tuple[float, float]
    high: tuple[float, float]

    def looseness(self, chosen: Range) -> float:
        """Half of the wider one over the amax of the range."""
        widest = max(self.low[1] - self.low[0], self.high[1] - self.high[0])
        return widest / 2 / chosen.amax if chosen.amax else 0.0


def interval_of(sketch: Sketch, method: Method, chosen: Range) -> Interval | None:
    """Of the range that the method chose; None where the images make too few groups."""
    resampled = Resampled.of(sketch)
    if resampled is None:
        return None
    lows, highs = method.resampled_ranges(resampled, chosen)
    return Interval(
        (min(float(lows.min()), chosen.low), max(float(lows.max()), chosen.low)),
        (min(float(highs.min()), chosen.high), max(float(highs.max()), chosen.high)),
    )


@dataclass(frozen=True)
class Alone:
    """One image without which a range would be narrower."""

    tensor: str
    image: str
    share: float
    """Of the range, or of its amax, that goes without the image."""
    reaches: float
    """The value that the image brings."""
    others: float
    """The furthest, on its side, of all other images."""

    def in_words(self, called: str) -> str:
        """`called` is the tensor as a person knows it."""
        return (
            f"image {self.image!r} alone sets the range of {called}: there it reaches {self.reaches:.4g}, "
            f"no other image goes beyond {self.others:.4g}; without it the range is {self.share:.0%} narrower"
        )


def alone_in(tensor: str, sketch: Sketch, chosen: Range) -> Alone | None:
    """The image that sets the range alone, where one does; of a few images the first of them often does.

    Of one that sets both ends, the end that it widens more.
    """
    if len(sketch.groups) < LEAST_GROUPS:
        return None
    above, below = _alone_above(tensor, sketch, chosen), _alone_below(tensor, sketch, chosen)
    if above is None or below is None:
        return above or below
    if above.image != below.image:
        return max(above, below, key=lambda each: each.share)
    at_high = max(chosen.high, 0.0) - max(min(chosen.high, above.others), 0.0)
    at_low = min(max(chosen.low, below.others), 0.0) - min(chosen.low, 0.0)
    return above if at_high >= at_low else below


def _alone_above(tensor: str, sketch: Sketch, chosen: Range) -> Alone | None:
    if len(sketch.highest.held) < 2:
        return None
    first, second = sketch.highest.held
    low = _low_without(first, sketch, chosen)
    share = _narrowed(chosen, Range(min(low, chosen.high, second.value), min(chosen.high, second.value)))
    return Alone(tensor, first.image.name, share, first.value, second.value) if share > ALONE_SHARE else None


def _alone_below(tensor: str, sketch: Sketch, chosen: Range) -> Alone | None:
    if len(sketch.lowest.held) < 2:
        return None
    first, second = sketch.lowest.held
    high = _high_without(first, sketch, chosen)
    share = _narrowed(chosen, Range(max(chosen.low, -second.value), max(high, chosen.low, -second.value)))
    return Alone(tensor, first.image.name, share, -first.value, -second.value) if share > ALONE_SHARE else None


def _low_without(peak: Peak, sketch: Sketch, chosen: Range) -> float:
    first, second = sketch.lowest.held
    return max(chosen.low, -second.value) if first.image == peak.image else chosen.low


def _high_without(peak: Peak, sketch: Sketch, chosen: Range) -> float:
    first, second = sketch.highest.held
    return min(chosen.high, second.value) if first.image == peak.image else chosen.high


def _narrowed(chosen: Range, without: Range) -> float:
    """The share of the amax, or of the width around zero, that is gone: the larger."""
    amax = 1 - without.amax / chosen.amax if chosen.amax else 0.0
    width = 1 - _width(without) / _width(chosen) if _width(chosen) else 0.0
    return max(amax, width)


def _width(chosen: Range) -> float:
    """Of the range with zero, which every grid holds."""
    return max(chosen.high, 0.0) - min(chosen.low, 0.0)


@dataclass(frozen=True)
class Confidence:
    """Of all ranges of a calibration."""

    tensors: int
    """That have an interval."""
    tight: int
    """Of these, those within `TOLERANCE`."""
    loosest: str
    looseness: float
    """Of the loosest."""

    def to_json(self) -> dict[str, Any]:
        """A part of ranges.json."""
        return {
            "level": (RESAMPLES - 1) / (RESAMPLES + 1),
            "tolerance": TOLERANCE,
            "tensors": self.tensors,
            "within_tolerance": self.tight,
            "loosest": {"tensor": self.loosest, "looseness": self.looseness},
        }

    @property
    def is_tight(self) -> bool:
        return self.tensors > 0 and self.tight >= TIGHT_SHARE * self.tensors

    def in_words(self) -> str:
        """Such as `41 of 43 ranges lie within 10 %; the loosest, of 'logits', within 8.2 %`."""
        return (
            f"{self.tight} of {self.tensors} ranges lie within {TOLERANCE:.0%} either way (90 % intervals); "
            f"the loosest, of {self.loosest!r}, within {self.looseness:.1%}"
        )


def confidence_of(intervals: Mapping[str, Interval | None], chosen: Mapping[str, Range]) -> Confidence | None:
    """None where no range has an interval."""
    loose = dict(_looseness(intervals, chosen))
    if not loose:
        return None
    loosest = max(loose, key=lambda name: (loose[name], name))
    return Confidence(len(loose), sum(each <= TOLERANCE for each in loose.values()), loosest, loose[loosest])


def _looseness(intervals: Mapping[str, Interval | None], chosen: Mapping[str, Range]) -> Iterator[tuple[str, float]]:
    for name, interval in intervals.items():
        if interval is not None:
            yield name, interval.looseness(chosen[name])
