"""How far a share that was counted may lie from the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline.process.randomness import Stream

CONFIDENCE = 0.95
RESAMPLES = 2000
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


Metric = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]
"""From statistics, (samples, k), and how often each sample is counted, (..., samples), to the metric, (...)."""
DRAWS_AT_ONCE = 50


@dataclass(frozen=True)
class Interval:
    """A value from n samples, and where the truth lies with the given confidence."""

    value: float
    low: float
    high: float
    n: int
    confidence: float = CONFIDENCE


def share(correct: NDArray[np.bool_]) -> Interval:
    """Wilson's score interval of a proportion: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209."""
    n, p = len(correct), float(correct.mean())
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    # Rounding must not push the value out of its own interval at 0 and 1.
    return Interval(p, min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p), n)


def share_ratio(correct: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Interval:
    """Share of one engine over the reference's on the same samples.

    The interval is Tango's score interval of the paired difference (Statistics in Medicine 17 (1998) 891) over the
    reference's share: unlike a bootstrap it has a width even where the two never disagreed.
    """
    n = len(reference)
    gained, lost = int((correct & ~reference).sum()), int((reference & ~correct).sum())
    base = float(reference.mean())
    if base == 0.0:
        raise ValueError("the reference got no sample right; a ratio to it means nothing")
    low, high = _paired_difference(gained, lost, n)
    return Interval(float(correct.mean()) / base, max(0.0, 1 + low / base), 1 + high / base, n)


def share_difference(correct: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Interval:
    """Share of one engine less the reference's, on the same samples; Tango's score interval, as in `share_ratio`."""
    n = len(reference)
    gained, lost = int((correct & ~reference).sum()), int((reference & ~correct).sum())
    low, high = _paired_difference(gained, lost, n)
    found = (gained - lost) / n
    return Interval(found, min(low, found), max(high, found), n)


def unchanged_bound(n: int) -> float:
    """Upper end of the interval of `share_difference` where no answer of n differs: z^2 / (n + z^2)."""
    return _Z**2 / (n + _Z**2)


def samples_to_show(difference: float) -> int:
    """The fewest samples whose `unchanged_bound` is within the difference, above 0 and at most 1."""
    return max(1, math.ceil(_Z**2 * (1 - difference) / difference))


def bootstrap(statistics: NDArray[np.float64], metric: Metric) -> Interval:
    """Percentile interval over resampled samples of a metric that their `statistics`, (samples, k), determine.

    B. Efron, Annals of Statistics 7 (1979) 1.
    """
    found = float(metric(statistics, np.ones(len(statistics), np.int64)))
    low, high = _middle(_resampled(statistics, metric))
    return Interval(found, min(low, found), max(high, found), len(statistics))


def bootstrap_ratio(statistics: NDArray[np.float64], reference: NDArray[np.float64], metric: Metric) -> Interval:
    """Of one engine's metric over the reference's, on the same samples: both are resampled together."""
    once = np.ones(len(statistics), np.int64)
    base = float(metric(reference, once))
    if base <= 0.0:
        raise ValueError("the reference's metric is not above 0; a ratio to it means nothing")
    found = float(metric(statistics, once)) / base
    below = _resampled(reference, metric)
    usable = below > 0
    low, high = _middle(_resampled(statistics, metric)[usable] / below[usable])
    return Interval(found, min(low, found), max(high, found), len(statistics))


def bootstrap_difference(statistics: NDArray[np.float64], reference: NDArray[np.float64], metric: Metric) -> Interval:
    """One engine's metric less the reference's, on the same samples: both are resampled together."""
    once = np.ones(len(statistics), np.int64)
    found = float(metric(statistics, once) - metric(reference, once))
    low, high = _middle(_resampled(statistics, metric) - _resampled(reference, metric))
    return Interval(found, min(low, found), max(high, found), len(statistics))


def _resampled(statistics: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """(RESAMPLES,): the same draws for the same number of samples, so that two engines are paired."""
    n = len(statistics)
    random = np.random.Generator(np.random.Philox(key=[0, Stream.RESAMPLES]))
    found = []
    # Some at a time: all draws together would take samples x resamples of memory.
    for _ in range(0, RESAMPLES, DRAWS_AT_ONCE):
        counts = np.stack([np.bincount(random.integers(0, n, n), minlength=n) for _ in range(DRAWS_AT_ONCE)])
        found.append(metric(statistics, counts))
    return np.concatenate(found)


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def _paired_difference(gained: int, lost: int, n: int) -> tuple[float, float]:
    found = (gained - lost) / n

    def score(difference: float) -> float:
        # Constrained maximum likelihood of P(lost) at this difference: the positive root of a x^2 + b x + c.
        a, b = 2 * n, -gained - lost + (2 * n - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        p_lost = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * p_lost + difference * (1 - difference))
        gap = gained - lost - n * difference
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    return _root(lambda d: score(d) - _Z, -1.0, found), _root(lambda d: score(d) + _Z, found, 1.0)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
