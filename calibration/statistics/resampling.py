"""A sketch drawn again: what other samples of as many images might have shown.

The groups of a sketch are drawn with replacement, as many as there are, which is the bootstrap of B. Efron and R.
Tibshirani, "An Introduction to the Bootstrap", 1993, 13.3 (percentile intervals) over blocks of images: values of one
image hang together, images do not. Of `RESAMPLES` = 19 ranges the least and the largest enclose a further one with
probability (19 - 1) / (19 + 1) = 90 %. A group knows its values in few bins; within such a bin its share of the values
stands for its share of each of the sketch's bins. No resample reaches beyond what was seen.

An interval tells how samples of the same size scatter, not how a range moves as images are added: extremes grow, and
with them what entropy and MSE choose. So 90 % is nominal. Of 64 synthetic images whose contrast differs by 30 % (150
draws of half-normal values) the percentile of 3,000 lay within its interval in 87 % (percentile 99), 69 % (99.9), 65 %
(99.99) and 57 % (99.999) of the draws; by 10 %, in 91 % (99.9). Tried beside it on the same draws: ends set apart by
Student's t in place of the normal, a jackknife over groups, R. Woodruff's interval of a quantile (J. Am. Stat. Assoc.
47 (1952) 635), basic and BCa intervals of 199 resamples. The best of them gained 5, 10, 11 and 3 points, never to 80 %
beyond 99: no resample holds the images that set such a tail and were not drawn. MSE's ranges grow too (53 %).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from calibration.statistics.binning import BINS
from calibration.statistics.groups import GROUP_BINS, Group
from calibration.statistics.sketch import Sketch

RESAMPLES = 19
LEAST_GROUPS = 8
"""Fewer say nothing of what other images would show."""
_SEED = 0


@dataclass(frozen=True)
class Resampled:
    """`RESAMPLES` weightings of the groups of one sketch."""

    sketch: Sketch
    groups: tuple[Group, ...]
    weights: NDArray[np.float64]
    """(resamples, groups): how often each group was drawn."""

    @classmethod
    def of(cls, sketch: Sketch) -> Resampled | None:
        """The same draws for each sketch of as many groups; None where it has too few."""
        groups = tuple(sketch.groups[number] for number in sorted(sketch.groups))
        if len(groups) < LEAST_GROUPS:
            return None
        draws = np.random.default_rng(_SEED).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), RESAMPLES)
        return cls(sketch, groups, draws.astype(np.float64))

    @cached_property
    def minimum(self) -> NDArray[np.float64]:
        """(resamples,): the least value of the groups that were drawn."""
        of_groups = np.array([group.minimum for group in self.groups])
        return np.asarray(np.where(self.weights > 0, of_groups, np.inf).min(axis=1), np.float64)

    @cached_property
    def maximum(self) -> NDArray[np.float64]:
        """(resamples,): the largest."""
        of_groups = np.array([group.maximum for group in self.groups])
        return np.asarray(np.where(self.weights > 0, of_groups, -np.inf).max(axis=1), np.float64)

    @cached_property
    def count(self) -> NDArray[np.float64]:
        """(resamples,): of values."""
        return self.weights @ np.array([group.count for group in self.groups], np.float64)

    @cached_property
    def zeros(self) -> NDArray[np.float64]:
        """(resamples,): of values that are zero."""
        return self.weights @ np.array([group.zeros for group in self.groups], np.float64)

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """(groups, 2 * BINS - 1): each group's values in the bins of the sketch."""
        coarse = np.array([group.counts for group in self.groups], np.float64)  # (groups, 2 * GROUP_BINS - 1)
        shares = coarse / np.maximum(coarse.sum(axis=0), 1)
        return np.asarray(np.take(shares, _GROUP_BIN, axis=1) * self.sketch.counts, np.float64)

    @cached_property
    def magnitudes(self) -> NDArray[np.float64]:
        """(groups, BINS): the same by magnitude."""
        folded = self.counts[:, BINS - 1 :].copy()
        folded[:, 1:] += self.counts[:, : BINS - 1][:, ::-1]
        return folded

    def cut(self, threshold: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Low and high ends of the symmetric ranges, each cut to what its resample holds."""
        return np.maximum(self.minimum, -threshold), np.minimum(self.maximum, threshold)


_NUMBERS = np.arange(1 - BINS, BINS)
_GROUP_BIN = np.sign(_NUMBERS) * (np.abs(_NUMBERS) // (BINS // GROUP_BINS)) + GROUP_BINS - 1
"""(2 * BINS - 1,): the place of each bin of a sketch among those of a group."""
