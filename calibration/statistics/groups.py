"""What a few images together showed of one tensor, coarsely: enough to see how a range hangs on which images came.

A pass keeps at most `MOST_GROUPS` groups whatever the number of images. Group number k holds the images k * size to
(k + 1) * size - 1 of the data; `size` is a power of two and doubles, neighbours merging in pairs, when a further image
would need one group more. Membership follows from the number of an image alone, so groups merge exactly too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from calibration.statistics.binning import BINS

MOST_GROUPS = 16
GROUP_BINS = 128
"""On each side of zero: each is as wide as `BINS / GROUP_BINS` bins of the sketch that the group is of."""
_MERGED = BINS // GROUP_BINS


@dataclass
class Group:
    """Like a sketch, in fewer bins: numbers 1 - GROUP_BINS ... GROUP_BINS - 1, number 0 around zero."""

    minimum: float = math.inf
    maximum: float = -math.inf
    count: int = 0
    zeros: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * GROUP_BINS - 1, np.int64))

    def add(self, other: Group, halvings: int) -> None:
        """Counts what the other counted, in bins that are 2**halvings times as wide as its own."""
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self.count += other.count
        self.zeros += other.zeros
        self.counts += coarser(other.counts, halvings)

    def coarsened(self, halvings: int) -> Group:
        """A copy whose bins are 2**halvings times as wide."""
        return replace(self, counts=coarser(self.counts, halvings).copy())


def size_for(images: int) -> int:
    """The images a group of a pass over so many: the least power of two that makes at most `MOST_GROUPS` of them."""
    return 1 << max(0, math.ceil(images / MOST_GROUPS) - 1).bit_length()


def coarser(counts: NDArray[np.int64], halvings: int) -> NDArray[np.int64]:
    """The same signed counts in bins that are 2**halvings times as wide; bin 0 stays in the middle."""
    if halvings == 0:
        return counts
    bins = counts.size // 2 + 1
    number = np.arange(1 - bins, bins)
    merged = np.sign(number) * (np.abs(number) >> min(halvings, bins.bit_length()))
    coarse = np.zeros_like(counts)
    np.add.at(coarse, merged + bins - 1, counts)
    return coarse


def folded(counts: NDArray[np.int64], *, any_below: bool = True) -> NDArray[np.int64]:
    """(2 * BINS - 1,) counts of a sketch -> (2 * GROUP_BINS - 1,) of a group; whether any is of a value below zero."""
    found = np.zeros(2 * GROUP_BINS - 1, np.int64)
    found[GROUP_BINS - 1 :] = np.add.reduceat(counts[BINS - 1 :], _STARTS)
    if any_below:
        below = np.add.reduceat(counts[BINS - 1 :: -1], _STARTS)  # outwards from bin 0
        below[0] -= counts[BINS - 1]  # which is counted already
        found[:GROUP_BINS] += below[::-1]
    return found


_STARTS = np.arange(0, BINS, _MERGED)
