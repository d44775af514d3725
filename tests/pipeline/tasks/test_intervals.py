"""Intervals of shares: published examples, and what every interval must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.tasks.intervals import (
    bootstrap_difference,
    samples_to_show,
    share,
    share_difference,
    share_ratio,
    unchanged_bound,
)

Counts = tuple[int, int, int, int]
COUNTS = st.tuples(*[st.integers(0, 60)] * 4)


def paired(both: int, gained: int, lost: int, neither: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(an engine's answers, the reference's)."""
    sizes = [both, gained, lost, neither]
    return np.repeat([True, True, False, False], sizes), np.repeat([True, False, True, False], sizes)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_the_published_one(right: int, n: int, low: float, high: float) -> None:
    found = share(np.arange(n) < right)
    assert (found.value, found.n) == (right / n, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_a_ratio_rests_on_tangos_published_difference() -> None:
    # T. Tango, Statistics in Medicine 17 (1998) 891: b = 12, c = 2, n = 50.
    engine, reference = paired(both=36, gained=12, lost=2, neither=0)
    found = share_ratio(engine, reference)
    base = reference.mean()
    assert ((found.low - 1) * base, (found.high - 1) * base) == pytest.approx((0.0611, 0.3447), abs=5e-5)
    assert found.value == pytest.approx(48 / 38)


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_share_lies_within_its_interval_and_both_within_0_and_1(right: int, n: int) -> None:
    found = share(np.arange(n) < right)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(COUNTS)
def test_a_ratio_lies_within_its_interval(counts: Counts) -> None:
    engine, reference = paired(*counts)
    if not reference.any():
        return
    found = share_ratio(engine, reference)
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value <= found.high + 1e-9


@given(COUNTS)
def test_ten_times_the_samples_give_a_narrower_interval(counts: Counts) -> None:
    engine, reference = paired(*counts)
    if not reference.any():
        return
    few, many = share_ratio(engine, reference), share_ratio(np.tile(engine, 10), np.tile(reference, 10))
    assert many.high - many.low < few.high - few.low
    few, many = share(engine), share(np.tile(engine, 10))
    assert many.high - many.low < few.high - few.low


@given(st.integers(1, 500))
def test_perfect_agreement_is_not_taken_for_certainty(n: int) -> None:
    found = share_ratio(np.ones(n, bool), np.ones(n, bool))
    assert found.value == 1.0
    assert found.low < 1.0 < found.high


def test_a_ratio_to_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="the reference got no sample right; a ratio to it means nothing"):
        share_ratio(np.ones(3, bool), np.zeros(3, bool))


def test_the_interval_of_a_difference_is_tangos_published_one() -> None:
    engine, reference = paired(both=36, gained=12, lost=2, neither=0)
    found = share_difference(engine, reference)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0611, 0.3447), abs=5e-5)


@given(st.integers(1, 500))
def test_samples_that_did_not_change_leave_the_bound_that_is_said(samples: int) -> None:
    right = np.arange(samples) % 3 > 0
    found = share_difference(right, right)
    assert found.high == pytest.approx(unchanged_bound(samples), abs=1e-6)
    needed = samples_to_show(unchanged_bound(samples))
    assert needed in (samples, samples + 1)  # rounding may ask for one more
    assert unchanged_bound(needed) <= unchanged_bound(samples)


def test_a_difference_of_metrics_that_are_no_shares_is_paired() -> None:
    random = np.random.default_rng(0)
    reference = np.stack([random.normal(10, 3, 200), np.ones(200)], axis=1)
    engine = reference - [0.5, 0.0]

    def mean(statistics: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        sums = counts @ statistics
        found: NDArray[np.float64] = sums[..., 0] / sums[..., 1]
        return found

    found = bootstrap_difference(engine, reference, mean)
    assert (found.value, found.low, found.high) == pytest.approx((-0.5, -0.5, -0.5))
