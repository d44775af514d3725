"""What latency samples say, and how sure it is: percentiles, intervals, drift, and which engine is faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines.timing import MIN_SAMPLES, InvalidMeasurement, LatencySamples

CONFIDENCE = 0.95
MIN_ROUNDS = 6
"""The least values whose extremes enclose the median with 95 % confidence, whatever their distribution."""
DRIFT_LIMIT = 0.05
MARGIN = 0.01
"""Differences below it are never called: two sessions of one file differ by half as much (where memory lies)."""
RESAMPLES = 2000

Verdict = Literal["faster", "slower", "inconclusive"]


@dataclass(frozen=True)
class Summary:
    """Latency of one session at one batch size; a percentile that its samples cannot carry is None."""

    samples: int
    rounds: int
    complete: bool
    min_ms: float
    p50_ms: float
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    p50_interval_ms: tuple[float, float]
    """Distribution-free, 95 %, from the medians of the rounds: the runs within one are too alike to count each."""
    coefficient_of_variation: float
    drift: float
    """Median of the second half of the rounds over the first half's, minus 1."""
    drifting: bool
    """The drift exceeds 5 %: not in a steady state (clocks, heat, a neighbour)."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Session a against b at one batch size: ratio < 1 is faster."""

    ratio: float
    """Of the medians, a / b."""
    interval: tuple[float, float]
    """95 %, from resampling whole rounds."""
    verdict: Verdict
    rounds: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(samples: LatencySamples) -> Summary:
    """Percentiles and their certainty; raises InvalidMeasurement where not even the median can be stated."""
    _check(samples)
    ms, p50_ms = np.sort(samples.milliseconds), float(np.median(samples.milliseconds))
    medians = [float(np.median(samples.milliseconds[samples.rounds == each])) for each in np.unique(samples.rounds)]
    low, high = median_interval(medians)
    percentiles = {percent: _percentile(ms, percent) for percent in MIN_SAMPLES}
    drift = _drift(samples)
    return Summary(
        samples=len(ms),
        rounds=len(medians),
        complete=samples.complete,
        min_ms=float(ms[0]),
        p50_ms=p50_ms,
        p90_ms=percentiles[90],
        p95_ms=percentiles[95],
        p99_ms=percentiles[99],
        p999_ms=percentiles[99.9],
        p50_interval_ms=(min(low, p50_ms), max(high, p50_ms)),
        coefficient_of_variation=float(ms.std(ddof=1) / ms.mean()),
        drift=drift,
        drifting=abs(drift) > DRIFT_LIMIT,
    )


def compare(a: LatencySamples, b: LatencySamples, seed: int = 0) -> Comparison:
    """Is a faster than b? Both must come from one call of `measure_latency`: they are paired by round.

    Whole rounds are resampled, so that what disturbs a round (a neighbour, a clock step) counts once, for both.
    """
    _check_pair(a, b)
    ratio = float(np.median(a.milliseconds) / np.median(b.milliseconds))
    rounds = int(a.rounds.max()) + 1
    drawn = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))
    weights = np.stack([np.bincount(row, minlength=rounds) for row in drawn])  # (resamples, rounds)
    ratios = _weighted_medians(a, weights) / _weighted_medians(b, weights)
    low, high = (float(edge) for edge in np.quantile(ratios, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)))
    return Comparison(ratio, (low, high), _verdict(ratio, low, high), rounds)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Order statistics that enclose the median of any distribution (Conover, Nonparametric Statistics, 3.2)."""
    ordered = sorted(values)
    below = _rank_below_median(len(ordered), confidence)
    return ordered[below], ordered[-1 - below]


def _rank_below_median(count: int, confidence: float) -> int:
    """The largest r with P(Binomial(count, 1/2) <= r) <= (1 - confidence) / 2."""
    allowed = Fraction((1 - confidence) / 2) * 2**count
    term, total, rank = 1, 0, -1
    while total + term <= allowed:
        total += term
        rank += 1
        term = term * (count - rank) // (rank + 1)
    if rank < 0:
        raise InvalidMeasurement(f"{count} samples enclose no median with {confidence:.0%} confidence; take more")
    return rank


def _percentile(sorted_ms: NDArray[np.float64], percent: float) -> float | None:
    if len(sorted_ms) < MIN_SAMPLES[percent]:
        return None
    return float(np.percentile(sorted_ms, percent, method="inverted_cdf"))


def _drift(samples: LatencySamples) -> float:
    middle = len(samples.milliseconds) // 2
    return float(np.median(samples.milliseconds[middle:]) / np.median(samples.milliseconds[:middle])) - 1


def _weighted_medians(samples: LatencySamples, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Median of each resample, whose row of `weights` says how often it drew each round: (resamples,)."""
    order = np.argsort(samples.milliseconds)
    ms, rounds = samples.milliseconds[order], samples.rounds[order]
    totals = (np.cumsum(row[rounds]) for row in weights)
    return np.array([ms[np.searchsorted(total, total[-1] / 2)] for total in totals])


def _verdict(ratio: float, low: float, high: float) -> Verdict:
    if high < 1 and ratio <= 1 - MARGIN:
        return "faster"
    return "slower" if low > 1 and ratio >= 1 + MARGIN else "inconclusive"


def _check_pair(a: LatencySamples, b: LatencySamples) -> None:
    pair = f"{a.session} and {b.session} at batch size {a.batch_size}"
    _check(a)
    _check(b)
    if a.batch_size != b.batch_size:
        raise InvalidMeasurement(f"{pair}: the second was timed at batch size {b.batch_size}; compare equal ones")
    if a.conditions != b.conditions:
        differing = (name for name, value in asdict(a.conditions).items() if value != getattr(b.conditions, name))
        raise InvalidMeasurement(f"{pair}: they differ in {', '.join(differing)}, so their times mean different things")
    if set(a.rounds) != set(b.rounds):
        raise InvalidMeasurement(f"{pair}: they were not timed in the same rounds; time both in one measurement")


def _check(samples: LatencySamples) -> None:
    ms, where = samples.milliseconds, f"{samples.session} at batch size {samples.batch_size}"
    rounds = len(np.unique(samples.rounds))
    if len(ms) < MIN_SAMPLES[50] or rounds < MIN_ROUNDS:
        raise InvalidMeasurement(
            f"{where}: {len(ms)} samples in {rounds} rounds within the time limit, {MIN_SAMPLES[50]} in {MIN_ROUNDS} "
            "are the least for a median; raise max_seconds or take a smaller batch size"
        )
    if not (np.isfinite(ms).all() and (ms > 0).all()):
        raise InvalidMeasurement(f"{where}: a run took no time at all; the clock of this machine cannot be trusted")
