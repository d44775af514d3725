"""Entropy: the threshold whose INT8 histogram loses the least information, as TensorRT chooses it.

Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, as NVIDIA publishes it in
pytorch-quantization (`calib/histogram.py`, `_compute_amax_entropy`). With b[j] the count of |x| in bin j, for each
candidate of i bins, 128 <= i <= n:

    P = b[0..i-1] with everything beyond i added to b[i-1]       what saturating at bin i leaves
    Q = b[0..i-1] averaged over the non-zero bins of each of 128 levels, bin j being in level floor(128 j / i)
    KL(P || Q) = sum_j p_j log(p_j / q_j),  p and q normalized to 1

and the threshold is the upper edge of the candidate with the least divergence, the widest of equals. Zeros are not
counted, and the first bin takes the count of the second, as in NVIDIA's code: the spike at zero costs nothing to
represent and would drown the rest.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from calibration.methods.method import Method, Range
from calibration.statistics import Sketch
from calibration.statistics.resampling import Resampled

LEVELS = 128
HISTOGRAM_BINS = 2048


@final
class Entropy(Method):
    """The symmetric threshold of least Kullback-Leibler divergence, cut to what was seen on each side."""

    name: ClassVar[str] = "entropy"

    def range_of(self, sketch: Sketch) -> Range:
        threshold = _threshold(sketch)
        return Range(max(sketch.minimum, -threshold), min(sketch.maximum, threshold))

    def resampled_ranges(self, resampled: Resampled, chosen: Range) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Among candidates that lie 1.5 % apart around the chosen one, and far apart elsewhere."""
        magnitudes, width = _histogram(resampled.magnitudes, resampled.sketch.width)
        used = _used(magnitudes.sum(axis=0))
        if used < LEVELS:
            return resampled.cut(np.maximum(-resampled.minimum, resampled.maximum))
        histograms = resampled.weights @ magnitudes[:, :used]  # (resamples, used)
        histograms[:, 0] = histograms[:, 1]
        around = chosen.amax / width * np.exp2(np.arange(-10, 11) / 48)
        candidates = np.unique(np.clip(np.rint([*around, *np.linspace(LEVELS, used, 13)]), LEVELS, used).astype(int))
        divergences = kl_divergences(histograms, candidates)  # (resamples, candidates)
        best = candidates.size - 1 - divergences[:, ::-1].argmin(axis=1)  # the widest of equals
        return resampled.cut(candidates[best] * width)


def _histogram(magnitudes: NDArray[Any], width: float) -> tuple[NDArray[Any], float]:
    """(..., BINS) counts -> (..., 2048), bins merged, and how wide they are then."""
    merged = magnitudes.shape[-1] // HISTOGRAM_BINS
    return magnitudes.reshape(*magnitudes.shape[:-1], HISTOGRAM_BINS, merged).sum(axis=-1), width * merged


def _used(histogram: NDArray[Any]) -> int:
    """Bins up to the last that holds something."""
    return int(np.flatnonzero(histogram)[-1]) + 1 if histogram.any() else 0


def _threshold(sketch: Sketch) -> float:
    largest = max(abs(sketch.minimum), abs(sketch.maximum))
    magnitudes, width = _histogram(sketch.magnitudes, sketch.width)
    used = _used(magnitudes)
    if used < LEVELS:  # all zero, or too small to be resolved
        return largest
    histogram = magnitudes[:used].astype(np.float64)
    histogram[0] = histogram[1]
    divergences = kl_divergences(histogram)
    best = int(np.flatnonzero(divergences == divergences.min())[-1])
    return (best + LEVELS) * width


def kl_divergences(histogram: NDArray[np.float64], candidates: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """KL(P || Q) in nats for each candidate; without any given for all of 128 ... n bins.

    Within a level q is constant, so the sum over bins is a sum over 128 levels of prefix-sum differences:
    sum_j p log p - sum_k (sum_{j in k} p_j) log q_k. A candidate whose last bin is empty although values saturate
    into it has q = 0 under p > 0: infinite.

    histogram: (..., n) counts, candidates: (c,) -> (..., c)
    """
    if candidates is None:
        candidates = np.arange(LEVELS, histogram.shape[-1] + 1)
    total = histogram.sum(axis=-1, keepdims=True)
    edges = -(-np.arange(LEVELS + 1)[None, :] * candidates[:, None] // LEVELS)  # (c, 129): ceil(k * i / 128)
    mass = _prefix_sums(histogram)
    level_mass = np.diff(np.take(mass, edges, axis=-1), axis=-1)  # (..., c, 128)
    level_bins = np.diff(np.take(_prefix_sums((histogram > 0).astype(np.float64)), edges, axis=-1), axis=-1)
    saturated = total - mass[..., candidates]
    last = histogram[..., candidates - 1]
    kept = mass[..., candidates]
    level_mean = level_mass / np.maximum(level_bins, 1)
    log_q = _log(level_mean) - _log(kept)[..., None]  # empty levels and candidates have no p to weigh it with
    reference_mass = level_mass.copy()
    reference_mass[..., -1] += saturated
    p_log_p = _prefix_sums(_x_log_x(histogram))[..., candidates] - _x_log_x(last) + _x_log_x(last + saturated)
    divergences = (p_log_p - (reference_mass * log_q).sum(axis=-1)) / total - np.log(total)
    divergences[(last == 0) & (saturated > 0)] = np.inf
    return np.asarray(divergences, np.float64)


def _prefix_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., n) -> (..., n + 1), starting at 0."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * _log(values)


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The natural logarithm, and 0 in place of log(0)."""
    return np.asarray(np.log(np.where(values > 0, values, 1.0)), np.float64)
