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
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from calibration.method import Method, Range
from calibration.resampling import Resampled
from calibration.statistics import BINS, Sketch

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
        best_high = highs[_places(resampled, groups, [Range(chosen.low, float(end)) for end in highs])]
        best_low = lows[_places(resampled, groups, [Range(float(end), chosen.high) for end in lows])]
        return np.maximum(resampled.minimum, best_low), np.minimum(resampled.maximum, best_high)


def _places(resampled: Resampled, groups: Spread, candidates: list[Range]) -> NDArray[np.int64]:
    """(resamples,): which candidate has the least error in each."""
    errors = [
        (resampled.weights @ squared_errors(groups, *symmetric_grid(each.low, each.high)))
        * (resampled.weights @ squared_errors(groups, *asymmetric_grid(each.low, each.high)))
        for each in candidates
    ]
    return np.asarray(np.argmin(errors, axis=0), np.int64)


@dataclass(frozen=True)
class Spread:
    """A tensor's non-zero values: between `edges[i]` and `edges[i + 1]` they lie evenly, `density[i]` per unit."""

    edges: NDArray[np.float64]
    density: NDArray[np.float64]
    """(bins,), or (sets of values, bins)."""


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
    def among(edges: NDArray[np.float64]) -> Range:
        return _least(values, [Range(chosen.low, float(edge)) for edge in np.clip(edges, seen.low, seen.high)])

    return among(among(seen.high * _COARSE).high * _FINE)


def _with_best_low(values: Spread, chosen: Range, seen: Range) -> Range:
    def among(edges: NDArray[np.float64]) -> Range:
        return _least(values, [Range(float(edge), chosen.high) for edge in np.clip(edges, seen.low, seen.high)])

    return among(among(seen.low * _COARSE).low * _FINE)


def _least(values: Spread, candidates: list[Range]) -> Range:
    """The candidate of least error, the first of equals."""
    return min(candidates, key=lambda each: error_of(values, each))


def error_of(values: Spread, chosen: Range) -> float:
    """The product of the squared errors on both kinds of grid."""
    symmetric, asymmetric = symmetric_grid(chosen.low, chosen.high), asymmetric_grid(chosen.low, chosen.high)
    return squared_error(values, *symmetric) * squared_error(values, *asymmetric)


def symmetric_grid(low: float, high: float) -> tuple[float, int, int]:
    """The step, and the numbers of the first and last level."""
    return max(abs(low), abs(high)) / 127, -127, 127


def asymmetric_grid(low: float, high: float) -> tuple[float, int, int]:
    """The same for 255 steps that hold zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    first = -round(-low / step) if step else 0
    return step, first, first + 255


def squared_error(values: Spread, step: float, first: int, last: int) -> float:
    """Sum over the values of (x - q(x))^2, q(x) the nearest level."""
    return float(squared_errors(values, step, first, last))


def squared_errors(values: Spread, step: float, first: int, last: int) -> NDArray[np.float64]:
    """The same of each set of values."""
    # Its antiderivative: each level n that lies fully below x adds step^3 / 12, the one of x (x - n step)^3 / 3.
    level = values.edges / (step or np.inf)
    np.rint(level, out=level)
    np.clip(level, first, last, out=level)
    off = values.edges - level * step
    integral = level * (step**3 / 12) + off * off * off / 3
    return np.asarray(values.density @ np.diff(integral), np.float64)
