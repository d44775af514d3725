"""The sketch of one tensor's values: flat in memory, and merged exactly.

A `Sketch` counts values in bins whose width is a power of two. When a larger value arrives the bins merge in
pairs, and because scaling by a power of two and truncating are both exact, a value lands in the same bin whether
it was counted before or after: any split into batches or shards, in any order, gives the same sketch bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.statistics.binning import BINS, add_counts
from calibration.statistics.channel_extremes import ChannelExtremes
from calibration.statistics.extremes import Image, Peaks, extremes_of
from calibration.statistics.groups import Group, coarser, folded
from calibration.statistics.summary import Summary, summary_of

_LEAST_EXPONENT = -100  # below 2**-100 everything shares the middle bin: a float32 scale factor must not overflow


@dataclass
class Sketch:
    """What is known of one tensor's values.

    `counts` has 2 * BINS - 1 entries for the signed bin numbers 1 - BINS ... BINS - 1: number i > 0 counts values in
    [i, i + 1) * width, number -i its mirror image, and number 0 the non-zero values in (-width, width).
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    count: int = 0
    """Values, in all bins and zeros together."""
    counted: int = 0
    """Values that were looked at one by one; each stands for those up to the next one (summary.py)."""
    zeros: int = 0
    masked: int = 0
    """Values that a mask takes out of a softmax; they count as zeros."""
    exponent: int | None = None
    """Every magnitude is below 2**exponent; None while only zeros were seen."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * BINS - 1, np.int64))
    highest: Peaks = field(default_factory=Peaks)
    lowest: Peaks = field(default_factory=Peaks)
    """Of the values negated."""
    channels: ChannelExtremes | None = None
    """Where they were asked for."""
    groups: dict[int, Group] = field(default_factory=dict)
    """By number; how many images each holds, `Sketches.group_size` says."""

    @property
    def width(self) -> float:
        """Of one bin; 0.0 while only zeros were seen."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent) / BINS

    @property
    def magnitudes(self) -> NDArray[np.int64]:
        """(BINS,) counts of non-zero values by magnitude: entry i is [i, i + 1) * width."""
        middle = BINS - 1
        folded_over = self.counts[middle:].copy()
        folded_over[1:] += self.counts[:middle][::-1]
        return folded_over

    @property
    def _used(self) -> slice:
        """The bins that values can be in, from the least to the largest, by their places in `counts`."""
        if self.exponent is None or not self.count:
            return slice(0)
        return self._bins_within(self.minimum, self.maximum)

    def _bins_within(self, low: float, high: float) -> slice:
        return slice(BINS - 1 + int(low / self.width), BINS + int(high / self.width))

    def update(
        self, values: NDArray[np.float32], images: Sequence[Image] = (), stride: int = 1, group: int | None = None
    ) -> None:
        """Counts every value at a multiple of `stride`, of any shape, and holds the images responsible for extremes.

        Raises CalibrationError, leaving the sketch as it was, on NaN or inf.
        """
        if not values.size:
            return
        summary = summary_of(values, range(0, values.size, stride))
        low, high = summary.low, summary.high
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(f"values in [{low}, {high}] are not finite; look for NaN or inf in the data")
        self.add([summary], group)
        for image, least, most in extremes_of(values, images, low, high):
            self.note(image, least, most)

    def add(
        self, summaries: Sequence[Summary], group: int | None = None, scratch: NDArray[np.int64] | None = None
    ) -> None:
        """Counts what some runs showed of the tensor, all of it finite and of images of the group, where one is named.

        The runs are counted by themselves first, in `scratch`, (2 * BINS - 1,) zeros before and after: sooner where
        many sketches share it, as it stays in the caches.
        """
        low, high = min(summary.low for summary in summaries), max(summary.high for summary in summaries)
        count = sum(summary.size for summary in summaries)
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.count += count
        self.counted += sum(summary.counted.size for summary in summaries)
        self.masked += sum(summary.masked for summary in summaries)
        counts, zeros = np.zeros(2 * BINS - 1, np.int64) if scratch is None else scratch, count
        if magnitude := max(-low, high):
            self._grow(_exponent_above(magnitude))
            zeros = add_counts(counts, summaries, 1.0 / self.width)
            used = self._bins_within(low, high)
            self.counts[used] += counts[used]
        self.zeros += zeros
        if group is not None:
            self._add_group(group, Group(low, high, count, zeros, folded(counts, any_below=low < 0)), self.exponent)
        if magnitude:
            counts[used] = 0

    def note(self, image: Image, low: float, high: float) -> None:
        """Holds the image where it is among those that reach furthest; these are the extremes that it brings."""
        self.highest.add(high, image)
        self.lowest.add(-low, image)

    def saturating(self, low: float, high: float) -> int:
        """How many values a range [low, high] around zero cuts off, to the accuracy of one bin at either end."""
        edges = np.arange(BINS) * self.width  # of bin i, and of its mirror image, the one nearer to zero
        above, below = self.counts[BINS - 1 :], self.counts[BINS - 1 :: -1]  # (BINS,) each, outwards from bin 0
        cut = 0
        if high < self.maximum:
            cut += int(above[1:][edges[1:] >= high].sum())
        if low > self.minimum:
            cut += int(below[1:][edges[1:] >= -low].sum())
        return cut

    def merge(self, other: Sketch, halvings: int = 0) -> None:
        """Adds what the other sketch counted, the numbers of whose groups are halved so often."""
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self.count += other.count
        self.counted += other.counted
        self.zeros += other.zeros
        self.masked += other.masked
        self.add_channels(other.channels)
        self.highest.merge(other.highest)
        self.lowest.merge(other.lowest)
        if other.exponent is not None:
            if grown := self._grow(other.exponent) - other.exponent:
                self.counts += coarser(other.counts, grown)
            else:
                self.counts[other._used] += other.counts[other._used]
        for number, group in other.groups.items():
            self._add_group(number >> halvings, group, other.exponent)

    def add_channels(self, other: ChannelExtremes | None) -> None:
        """Adds the extremes of each channel, where there are such."""
        if other is not None:
            self.channels = other if self.channels is None else self.channels.merged(other)

    def halve_groups(self, halvings: int) -> None:
        """Merges neighbouring groups, so often."""
        before, self.groups = self.groups, {}
        for number, group in before.items():
            self._add_group(number >> halvings, group, self.exponent)

    def _add_group(self, number: int, group: Group, exponent: int | None) -> None:
        halvings = 0 if exponent is None or self.exponent is None else self.exponent - exponent
        if number in self.groups:
            self.groups[number].add(group, halvings)
        else:
            self.groups[number] = group.coarsened(halvings)

    def _grow(self, exponent: int) -> int:
        """Makes room for magnitudes below 2**exponent; returns the exponent that now holds."""
        if self.exponent is None:
            self.exponent = exponent
        elif exponent > self.exponent:
            halvings = exponent - self.exponent
            self.counts = coarser(self.counts, halvings)
            for group in self.groups.values():
                group.counts = coarser(group.counts, halvings)
            self.exponent = exponent
        return self.exponent


def _exponent_above(magnitude: float) -> int:
    """The least e such that magnitude < 2**e."""
    return max(math.frexp(magnitude)[1], _LEAST_EXPONENT)
