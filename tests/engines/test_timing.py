"""Latency: what is timed, in which order, and what its samples can and cannot say. The clock is a fake one."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.base import Arrays, Session, TensorInfo
from engines.errors import EngineError
from engines.latency import MARGIN, MIN_ROUNDS, compare, median_interval, summarize
from engines.run_options import Phases, RunConditions
from engines.timing import (
    MIN_SAMPLES,
    PRESETS,
    InvalidMeasurement,
    LatencySamples,
    MeasurementCancelled,
    TimingSettings,
    measure_latency,
    median_phases,
)

QUICK = PRESETS["quick"]
MILLISECOND = 1_000_000


class Clock:
    """Nanoseconds that pass only when a session runs, and who ran."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.ran: list[str] = []

    def __call__(self) -> int:
        return self.now_ns


class TimedSession(Session):
    """Takes as long as `milliseconds` says for its n-th run."""

    def __init__(self, clock: Clock, name: str, milliseconds: Callable[[int], float]) -> None:
        self._clock, self._name, self._milliseconds = clock, name, milliseconds
        self.fed: list[int] = []

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return (TensorInfo("x", "float32", (-1, 1)),)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return ()

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        self._clock.now_ns += round(self._milliseconds(len(self.fed)) * MILLISECOND)
        self._clock.ran.append(self._name)
        self.fed.append(int(np.asarray(feeds["x"])[0, 0]))
        return {}

    def close(self) -> None: ...


def feeds(batch_size: int = 1, count: int = 3) -> dict[int, list[Arrays]]:
    return {batch_size: [{"x": np.full((batch_size, 1), index, np.float32)} for index in range(count)]}


def measured(settings: TimingSettings = QUICK, **milliseconds: float) -> dict[str, LatencySamples]:
    clock = Clock()
    sessions = {name: TimedSession(clock, name, lambda _, ms=ms: ms) for name, ms in milliseconds.items()}  # type: ignore[misc]
    return {name: found for (name, _), found in measure_latency(sessions, feeds(), settings, clock_ns=clock).items()}


def samples_of(rounds: NDArray[np.float64], name: str = "engine", batch_size: int = 1) -> LatencySamples:
    """`rounds`: (rounds, runs) milliseconds."""
    at_round = np.repeat(np.arange(len(rounds), dtype=np.int32), rounds.shape[1])
    return LatencySamples(name, batch_size, rounds.ravel(), at_round, warmup_runs=3, complete=True)


def noisy(seed: int, ms: float = 1.0, rounds: int = 20, runs: int = 10) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    return ms * random.lognormal(0, 0.1, (rounds, runs))


# What is timed


def test_a_slow_start_is_warm_up_and_in_no_sample() -> None:
    clock = Clock()
    session = TimedSession(clock, "a", lambda run: 50.0 if run < 4 else 1.0)
    found = measure_latency({"a": session}, feeds(), QUICK, clock_ns=clock)["a", 1]
    assert found.warmup_runs == 4  # 4 x 50 ms reach 0.2 s
    assert set(found.milliseconds) == {1.0}


def test_warm_up_goes_on_until_both_its_time_and_its_runs_are_reached() -> None:
    assert measured(replace(QUICK, warmup_seconds=0.2, warmup_runs=3), a=1.0)["a"].warmup_runs == 200
    assert measured(replace(QUICK, warmup_seconds=0.2, warmup_runs=3), a=500.0)["a"].warmup_runs == 3


def test_engines_take_turns_in_an_order_that_changes_and_repeats_for_a_seed() -> None:
    def order(seed: int) -> list[str]:
        clock = Clock()
        sessions = {name: TimedSession(clock, name, lambda _: 20.0) for name in "ab"}
        found = measure_latency(sessions, feeds(), replace(QUICK, warmup_runs=10, seed=seed), clock_ns=clock)
        assert {len(each.milliseconds) for each in found.values()} == {80}
        turns = clock.ran[20:]  # after the warm-up: blocks of one untimed and four timed runs
        assert len(turns) == QUICK.rounds * 2 * 5
        return ["".join(turns[at : at + 10]) for at in range(0, len(turns), 10)]

    rounds = order(seed=0)
    assert set(rounds) == {"aaaaabbbbb", "bbbbbaaaaa"}
    assert rounds == order(seed=0)
    assert rounds != order(seed=1)


def test_no_input_set_is_fed_twice_in_a_row() -> None:
    clock = Clock()
    session = TimedSession(clock, "a", lambda _: 1.0)
    measure_latency({"a": session}, feeds(count=3), QUICK, clock_ns=clock)
    assert session.fed[:6] == [0, 1, 2, 0, 1, 2]
    assert all(first != second for first, second in zip(session.fed, session.fed[1:], strict=False))


def test_quick_times_a_fast_engine_for_a_second() -> None:
    found = measured(a=2.0)["a"]
    assert found.milliseconds.sum() == pytest.approx(1000)
    assert found.complete


def test_a_slow_engine_is_timed_until_its_p90_can_be_stated() -> None:
    found = measured(a=150.0)["a"]
    assert MIN_SAMPLES[90] <= len(found.milliseconds) <= MIN_SAMPLES[90] + QUICK.rounds
    assert summarize(found).p90_ms == 150.0


def test_a_very_slow_engine_stops_at_the_time_limit_and_says_so() -> None:
    found = measured(a=1500.0)["a"]
    assert len(found.milliseconds) == 14  # the first beyond 20 s
    assert not found.complete
    assert summarize(found).p90_ms is None


def test_a_fast_engine_beside_a_slow_one_still_gets_its_samples_in_the_same_rounds() -> None:
    found = measured(fast=1.0, slow=100.0)
    assert len(found["fast"].milliseconds) == 1000
    assert len(found["slow"].milliseconds) == 80
    assert set(found["fast"].rounds) == set(found["slow"].rounds) == set(range(QUICK.rounds))


def test_the_most_samples_are_bounded() -> None:
    assert len(measured(replace(QUICK, max_samples=2000), a=0.01)["a"].milliseconds) == 2000


@pytest.fixture
def _garbage_collection() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.usefixtures("_garbage_collection")
@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_off_while_timing_and_afterwards_as_before(enabled: bool) -> None:
    clock, states = Clock(), set[bool]()

    def milliseconds(_: int) -> float:
        states.add(gc.isenabled())
        return 1.0

    (gc.enable if enabled else gc.disable)()
    measure_latency({"a": TimedSession(clock, "a", milliseconds)}, feeds(), QUICK, clock_ns=clock)
    assert states == {False}
    assert gc.isenabled() is enabled


def test_garbage_collection_is_back_after_a_session_fails() -> None:
    clock = Clock()

    def fails(run: int) -> float:
        if run == 5:
            raise EngineError("out of memory")
        return 100.0

    with pytest.raises(EngineError, match="out of memory"):
        measure_latency({"a": TimedSession(clock, "a", fails)}, feeds(), QUICK, clock_ns=clock)
    assert gc.isenabled()


def test_progress_counts_the_rounds_of_all_batch_sizes() -> None:
    clock, told = Clock(), list[tuple[int, int]]()
    settings = replace(QUICK, rounds=10)
    session = TimedSession(clock, "a", lambda _: 1.0)

    def on_round(done: int, total: int) -> bool:
        told.append((done, total))
        return True

    found = measure_latency({"a": session}, {**feeds(1), **feeds(8)}, settings, on_round, clock)
    assert told == [(done, 20) for done in range(1, 21)]
    assert list(found) == [("a", 1), ("a", 8)]


def test_a_measurement_stops_when_it_is_told_to() -> None:
    clock = Clock()
    session = TimedSession(clock, "a", lambda _: 1.0)
    with pytest.raises(MeasurementCancelled, match="stopped after 7 of 20 rounds"):
        measure_latency({"a": session}, feeds(), QUICK, lambda done, _: done < 7, clock)


def test_what_cannot_be_timed_honestly_is_refused() -> None:
    session = TimedSession(Clock(), "a", lambda _: 1.0)
    with pytest.raises(InvalidMeasurement, match=r"batch size 1: 1 input set\(s\), .* give at least 2"):
        measure_latency({"a": session}, feeds(count=1))
    with pytest.raises(InvalidMeasurement, match=r"batch size 8: its inputs hold batches of \[1\]"):
        measure_latency({"a": session}, {8: feeds(1)[1]})
    with pytest.raises(InvalidMeasurement, match="nothing to time"):
        measure_latency({}, feeds())


# What samples say


@pytest.mark.parametrize(("percent", "count"), MIN_SAMPLES.items())
def test_least_samples_of_a_percentile_follow_from_99_percent_confidence(percent: float, count: int) -> None:
    def chance_of_at_most_one_overrun(samples: int) -> float:
        within = percent / 100
        return within**samples + samples * (1 - within) * within ** (samples - 1)

    assert chance_of_at_most_one_overrun(count) <= 0.01 < chance_of_at_most_one_overrun(count - 1)


@given(st.integers(11, 700), st.integers(0, 2**32 - 1))
def test_a_percentile_is_a_sample_that_enough_samples_stay_within_or_is_not_stated(count: int, seed: int) -> None:
    ms = np.random.default_rng(seed).lognormal(0, 1, count)
    at_round = np.sort(np.arange(count, dtype=np.int32) % MIN_ROUNDS)
    found = summarize(LatencySamples("a", 1, ms, at_round, warmup_runs=3, complete=True))
    for percent, value in ((90, found.p90_ms), (95, found.p95_ms), (99, found.p99_ms), (99.9, found.p999_ms)):
        assert (value is None) == (count < MIN_SAMPLES[percent])
        if value is not None:
            assert value in ms
            assert (ms <= value).mean() >= percent / 100 > (ms < value).mean()
    low, high = found.p50_interval_ms
    assert ms.min() == found.min_ms <= low <= found.p50_ms <= high <= ms.max()


@given(st.integers(6, 1500), st.sampled_from([0.9, 0.95]))
def test_the_interval_of_a_median_is_the_narrowest_that_binomial_chance_allows(count: int, confidence: float) -> None:
    low, high = median_interval([float(value) for value in range(count)], confidence)
    below = int(low)
    assert high == count - 1 - below

    def missed(rank: int) -> Fraction:
        return Fraction(sum(math.comb(count, at) for at in range(rank + 1)), 2**count)

    assert missed(below) <= (1 - confidence) / 2 < missed(below + 1)


def test_five_values_enclose_no_median() -> None:
    with pytest.raises(InvalidMeasurement, match="5 samples enclose no median with 95% confidence"):
        median_interval([1.0, 2.0, 3.0, 4.0, 5.0])


def test_the_interval_covers_the_true_median_though_the_runs_of_a_round_are_alike() -> None:
    covered = 0
    for seed in range(200):
        disturbed = np.random.default_rng(seed).lognormal(0, 0.1, (20, 1))
        low, high = summarize(samples_of(noisy(seed + 1000) * disturbed)).p50_interval_ms
        covered += low <= 1.0 <= high
    assert covered >= 0.93 * 200


def test_too_few_samples_or_rounds_are_an_invalid_measurement_that_says_what_to_change() -> None:
    too_few = "10 samples in 10 rounds within the time limit, 11 in 6 are the least for a median; raise max_seconds"
    with pytest.raises(InvalidMeasurement, match=f"engine at batch size 1: {too_few}"):
        summarize(samples_of(np.ones((10, 1))))
    with pytest.raises(InvalidMeasurement, match="500 samples in 5 rounds"):
        summarize(samples_of(np.ones((5, 100))))


def test_a_clock_that_stands_still_is_not_believed() -> None:
    with pytest.raises(InvalidMeasurement, match="a run took no time at all; the clock of this machine"):
        summarize(samples_of(np.zeros((20, 10))))


def test_an_engine_that_slows_down_is_drifting_and_a_noisy_one_is_not() -> None:
    slowing = summarize(samples_of(noisy(0) * np.linspace(1, 1.3, 20)[:, None]))
    assert slowing.drifting
    assert slowing.drift == pytest.approx(0.14, abs=0.03)
    assert not summarize(samples_of(noisy(0))).drifting


def test_a_summary_goes_into_json_with_null_for_what_it_cannot_state() -> None:
    found = json.loads(json.dumps(summarize(samples_of(noisy(0, rounds=20, runs=5))).to_json()))
    assert found["samples"] == 100
    assert found["p90_ms"] > found["p50_ms"]
    assert found["p99_ms"] is None


# Which is faster


def test_twice_the_time_is_slower_and_half_of_it_faster() -> None:
    a, b = samples_of(noisy(1, ms=1.0), "a"), samples_of(noisy(2, ms=2.0), "b")
    faster, slower = compare(a, b), compare(b, a)
    assert (faster.verdict, slower.verdict) == ("faster", "slower")
    assert faster.interval[0] < 0.5 < faster.interval[1]
    assert slower.ratio == pytest.approx(1 / faster.ratio)


def test_one_engine_timed_twice_is_inconclusive_and_the_interval_covers_the_true_ratio() -> None:
    pairs = [(samples_of(noisy(seed)), samples_of(noisy(seed + 500))) for seed in range(60)]
    found = [compare(a, b) for a, b in pairs]
    assert sum(each.interval[0] <= 1 <= each.interval[1] for each in found) >= 0.9 * 60
    assert sum(each.verdict != "inconclusive" for each in found) <= 0.05 * 60


def test_what_disturbs_a_whole_round_does_not_blur_the_ratio() -> None:
    disturbed = np.random.default_rng(9).lognormal(0, 0.3, (20, 1))
    a, b = samples_of(noisy(1, ms=0.9) * disturbed, "a"), samples_of(noisy(2) * disturbed, "b")
    paired = compare(a, b)
    apart = compare(a, samples_of(noisy(2) * np.random.default_rng(8).lognormal(0, 0.3, (20, 1)), "b"))
    assert paired.verdict == "faster"
    assert np.ptp(paired.interval) < np.ptp(apart.interval) / 2


def test_a_difference_within_the_margin_is_not_called_however_sure_it_is() -> None:
    a, b = samples_of(np.full((20, 10), 1 - MARGIN / 2), "a"), samples_of(np.ones((20, 10)), "b")
    found = compare(a, b)
    assert found.interval[1] < 1
    assert found.verdict == "inconclusive"


def test_a_comparison_repeats_for_a_seed() -> None:
    a, b = samples_of(noisy(1)), samples_of(noisy(2))
    assert compare(a, b, seed=3) == compare(a, b, seed=3)
    assert compare(a, b, seed=3) != compare(a, b, seed=4)


def test_only_one_measurement_at_one_batch_size_is_compared() -> None:
    a = samples_of(noisy(1), "a")
    with pytest.raises(InvalidMeasurement, match="a and b at batch size 1: the second was timed at batch size 8"):
        compare(a, samples_of(noisy(2), "b", batch_size=8))
    with pytest.raises(InvalidMeasurement, match="not timed in the same rounds; time both in one measurement"):
        compare(a, samples_of(noisy(2, rounds=12), "b"))


def test_times_that_hold_different_things_are_not_compared() -> None:
    a = samples_of(noisy(1), "a")
    b = replace(a, session="b", conditions=RunConditions(transfers=True, spin_wait=True))
    said = "a and b at batch size 1: they differ in transfers, spin_wait, so their times mean different things"
    with pytest.raises(InvalidMeasurement, match=said):
        compare(a, b)
    assert compare(b, b).verdict == "inconclusive"


class PhasedSession(TimedSession):
    """Runs on a GPU whose compute takes one millisecond more with each run."""

    @property
    def conditions(self) -> RunConditions:
        return RunConditions(transfers=True, cuda_graph=True)

    def run_in_phases(self, feeds: Arrays) -> Phases:
        self.run(feeds)
        return Phases(0.5, float(len(self.fed)), 0.25, 0.125)


def test_samples_carry_what_their_time_depends_on() -> None:
    clock = Clock()
    found = measure_latency({"a": PhasedSession(clock, "a", lambda _: 1.0)}, feeds(), QUICK, clock_ns=clock)["a", 1]
    assert found.conditions == RunConditions(transfers=True, cuda_graph=True)
    assert measured(a=1.0)["a"].conditions == RunConditions()


def test_phases_are_medians_of_warm_runs_over_rotated_inputs() -> None:
    session = PhasedSession(Clock(), "a", lambda _: 1.0)
    inputs = feeds(count=3)[1]
    assert median_phases(session, inputs, runs=5) == Phases(0.5, 8.0, 0.25, 0.125)
    assert session.fed == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert median_phases(TimedSession(Clock(), "a", lambda _: 1.0), inputs) is None


def test_presets_reach_what_they_promise() -> None:
    assert QUICK.min_samples == MIN_SAMPLES[90]
    assert PRESETS["thorough"].min_samples == MIN_SAMPLES[99]
    assert all(preset.rounds >= MIN_ROUNDS and preset.max_seconds > preset.seconds for preset in PRESETS.values())
