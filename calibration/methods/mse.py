"""MSE: the range whose rounding and saturation together make the least mean squared error.

A range serves two kinds of grid: the symmetric one of 127 steps up to amax, which TensorRT takes, and the one of 255
steps from low to high, which CPUs take. They want the same range where values lie on both sides of zero alike; where
they do not (after a Relu the second has twice the steps), the range of least *product* of the two errors is taken, so
that a decibel of one counts like a decibel of the other.

Source of the error: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, and R. Banner et al., "Post training 4-bit
quantization of convolutional networks for rapid-deployment", arXiv 1810.05723, with the measured histogram in place
of their densities: values count as spread evenly within their bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from calibration.methods.method import Method, Range
from calibration.statistics import BINS, Sketch
from calibration.statistics.resampling import Resampled

_COARSE = np.exp2(-np.arange(33) / 4)
"""Candidates as shares of the widest, down to 1 / 256 of it ..."""
_FINE = np.exp2(np.arange(7, -8, -1) / 32)
"""... and around the best of them: neighbours are 2 % apart."""
_AROUND = np.exp2(np.arange(-12, 13) / 20)
"""What a resample chooses from, as shares of the range that was chosen: 0.66 to 1.52 of it, 4 % apart."""
_POINT = 1e-3
"""Of its width is what a bin keeps at least where the extremes cut it: one value is no density."""
_SWEEPS = 4
"""Low and high are searched in turns until neither moves: most tensors take two."""


Ends = NDArray[np.float64] | float
Grid = tuple[NDArray[np.float64], NDArray[np.float64], int]


@final
class MSE(Method):
    """The range of least mean squared error over the histogram."""

    name: ClassVar[str] = "mse"

    def range_of(self, sketch: Sketch) -> Range:
        seen = chosen = Range(sketch.minimum, sketch.maximum)
        if not sketch.counts.any():  # only zeros were counted
            return seen
        values = spread_of(sketch)
        for _ in range(_SWEEPS):
            before = chosen
            if seen.high > 0:
                chosen = _with_best_high(values, chosen, seen)
            if seen.low < 0:
                chosen = _with_best_low(values, chosen, seen)
            if chosen == before:
                break
        return chosen

    def resampled_ranges(self, resampled: Resampled, chosen: Range) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Among ranges that lie 4 % apart around the chosen one: one end moves while the other stays."""
        if not resampled.sketch.counts.any():
            return resampled.minimum, resampled.maximum
        values = spread_of(resampled.sketch)
        used = np.flatnonzero(resampled.sketch.counts)
        density = resampled.counts[:, used[0] : used[-1] + 1] / np.diff(values.edges)
        groups = Spread(values.edges, density)  # (groups, bins)
        highs = np.unique(np.clip(chosen.high * _AROUND, chosen.low, resampled.sketch.maximum))
        lows = np.unique(np.clip(chosen.low * _AROUND, resampled.sketch.minimum, chosen.high))
        best_high = highs[_places(resampled, groups, np.full(len(highs), chosen.low), highs)]
        best_low = lows[_places(resampled, groups, lows, np.full(len(lows), chosen.high))]
        return np.maximum(resampled.minimum, best_low), np.minimum(resampled.maximum, best_high)


def _places(
    resampled: Resampled, groups: Spread, lows: NDArray[np.float64], highs: NDArray[np.float64]
) -> NDArray[np.int64]:
    """(resamples,): which candidate has the least error in each."""
    grids = [symmetric_grid(lows, highs), asymmetric_grid(lows, highs)]
    symmetric, asymmetric = (resampled.weights @ squared_errors(groups, *grid) for grid in grids)
    return np.asarray(np.argmin(symmetric * asymmetric, axis=1), np.int64)


@dataclass(frozen=True)
class Spread:
    """A tensor's non-zero values: between `edges[i]` and `edges[i + 1]` they lie evenly, `density[i]` per unit."""

    edges: NDArray[np.float64]
    density: NDArray[np.float64]
    """(bins,), or (sets of values, bins)."""

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """(..., edges): how many values lie below each edge."""
        return self._summed(self.edges)

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        """(..., edges): their sum."""
        return self._summed(np.square(self.edges) / 2)

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """(...): the sum of the squares of all."""
        return np.asarray(self.density @ np.diff(self.edges**3 / 3), np.float64)

    def _summed(self, antiderivative: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.zeros((*self.density.shape[:-1], len(self.edges)))
        np.cumsum(self.density * np.diff(antiderivative), axis=-1, out=found[..., 1:])
        return found


def spread_of(sketch: Sketch) -> Spread:
    """The histogram from its first to its last used bin, these two cut at the exact extremes."""
    used = np.flatnonzero(sketch.counts)
    first, last = int(used[0]), int(used[-1])
    numbers = np.arange(first, last + 2) - (BINS - 1)  # an edge left of each bin, and one right of the last
    edges = np.where(numbers > 0, numbers, numbers - 1) * sketch.width  # bin 0 is two wide
    least = _POINT * sketch.width
    edges[-1] = min(edges[-1], sketch.maximum)
    edges[-2] = min(edges[-2], edges[-1] - least)
    edges[0] = min(max(edges[0], sketch.minimum), edges[1] - least)
    return Spread(edges, sketch.counts[first : last + 1] / np.diff(edges))


def _with_best_high(values: Spread, chosen: Range, seen: Range) -> Range:
    def among(highs: NDArray[np.float64]) -> Range:
        return _least(values, np.full(len(highs), chosen.low), np.clip(highs, seen.low, seen.high))

    return among(among(seen.high * _COARSE).high * _FINE)


def _with_best_low(values: Spread, chosen: Range, seen: Range) -> Range:
    def among(lows: NDArray[np.float64]) -> Range:
        return _least(values, np.clip(lows, seen.low, seen.high), np.full(len(lows), chosen.high))

    return among(among(seen.low * _COARSE).low * _FINE)


def _least(values: Spread, lows: NDArray[np.float64], highs: NDArray[np.float64]) -> Range:
    """The candidate of least product of the errors on both kinds of grid, the first of equals."""
    symmetric, asymmetric = symmetric_grid(lows, highs), asymmetric_grid(lows, highs)
    place = int(np.argmin(squared_errors(values, *symmetric) * squared_errors(values, *asymmetric)))
    return Range(float(lows[place]), float(highs[place]))


def symmetric_grid(low: Ends, high: Ends) -> Grid:
    """The step and the number of the first level of each range from low to high, and how many levels there are."""
    return np.maximum(np.abs(low), np.abs(high)) / 127, np.full(np.shape(low), -127.0), 255


def asymmetric_grid(low: Ends, high: Ends) -> Grid:
    """The same for 255 steps that hold zero."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    step = np.asarray((high - low) / 255)
    return step, -np.rint(-low / np.where(step > 0, step, 1.0)), 256


def squared_errors(
    values: Spread, step: NDArray[np.float64], first: NDArray[np.float64], levels: int
) -> NDArray[np.float64]:
    """Sum over the values of (x - q(x))^2, q(x) the nearest level: of each set of values on each grid, (..., grids)."""
    # From one level l to the next, what is below the middle m between them moves by l^2 N - 2 l S, N values of sum S.
    middle = (first[..., None] + np.arange(levels - 1) + 0.5) * step[..., None]  # (grids, levels - 1)
    end = np.clip(middle, values.edges[0], values.edges[-1])
    within = np.clip(np.searchsorted(values.edges, end, "right") - 1, 0, values.density.shape[-1] - 1)
    after, density = end - values.edges[within], values.density[..., within]
    below = values.counts[..., within] + density * after
    summed = values.sums[..., within] + density * (after * (end + values.edges[within]) / 2)
    highest = (first + levels - 1) * step
    counts, sums, squares = (each[..., None] for each in (values.counts[..., -1], values.sums[..., -1], values.squares))
    whole = squares + highest * (highest * counts - 2 * sums)
    return np.asarray(whole - 2 * step * (below * middle - summed).sum(axis=-1), np.float64)
