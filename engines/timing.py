"""How long sessions take: interleaved, warmed-up, blocking runs over rotated inputs."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import Arrays, Session
from engines.errors import EngineError
from engines.run_options import Phases, RunConditions

RoundDone = Callable[[int, int], bool]
"""Called with (rounds done, rounds in all); returns False to stop the measurement."""

Clock = Callable[[], int]
"""Monotonic nanoseconds."""

MIN_SAMPLES: Mapping[float, int] = {50: 11, 90: 64, 95: 130, 99: 662, 99.9: 6636}
"""Samples below which a percentile is not stated: MLPerf's early stopping at 99 % confidence, one overrun allowed."""


class InvalidMeasurement(EngineError):
    """The samples cannot carry the statement; the message says what to change."""


class MeasurementCancelled(EngineError):
    """The measurement was stopped from outside."""


@dataclass(frozen=True)
class TimingSettings:
    """How long to measure, per engine and batch size."""

    seconds: float
    """Of timed runs, where `min_samples` are reached within it."""
    max_seconds: float
    """Bound that even `min_samples` gives way to."""
    min_samples: int = MIN_SAMPLES[90]
    max_samples: int = 20_000
    rounds: int = 20
    """Turns that the engines take; the unit that comparisons resample."""
    warmup_seconds: float = 0.2
    warmup_runs: int = 3
    seed: int = 0


PRESETS: Mapping[str, TimingSettings] = {
    "quick": TimingSettings(seconds=1.0, max_seconds=20.0),
    "thorough": TimingSettings(
        seconds=10.0, max_seconds=120.0, min_samples=MIN_SAMPLES[99], max_samples=100_000, rounds=50, warmup_seconds=2.0
    ),
}


@dataclass(frozen=True, eq=False)
class LatencySamples:
    """Every timed run of one session at one batch size, in the order in which they ran."""

    session: str
    batch_size: int
    milliseconds: NDArray[np.float64]  # (samples,)
    rounds: NDArray[np.int32]  # (samples,) the round each belongs to, ascending
    warmup_runs: int
    complete: bool
    """False where `max_seconds` ended the measurement before its last round."""
    conditions: RunConditions = field(default_factory=RunConditions)


def measure_latency(
    sessions: Mapping[str, Session],
    feeds: Mapping[int, Sequence[Arrays]],
    settings: TimingSettings = PRESETS["quick"],
    on_round: RoundDone | None = None,
    clock_ns: Clock = time.perf_counter_ns,
) -> dict[tuple[str, int], LatencySamples]:
    """Latency of each session at each batch size; `feeds` has several distinct input sets per batch size.

    Raises MeasurementCancelled when `on_round` returns False, EngineError when a session refuses an input.
    """
    _check(sessions, feeds)
    random = np.random.default_rng(settings.seed)
    total = settings.rounds * len(feeds)
    samples: dict[tuple[str, int], LatencySamples] = {}
    with _no_garbage_collection():
        for position, (batch_size, inputs) in enumerate(feeds.items()):
            lanes = [_Lane(name, session, inputs, clock_ns) for name, session in sessions.items()]
            done = position * settings.rounds
            rounds = _run_rounds(lanes, settings, random, _progress(on_round, done, total), clock_ns)
            for lane in lanes:
                samples[lane.name, batch_size] = lane.samples(batch_size, complete=rounds == settings.rounds)
    return samples


def median_phases(session: Session, inputs: Sequence[Arrays], runs: int = MIN_SAMPLES[50]) -> Phases | None:
    """The median of each phase over so many runs, after as many untimed ones; None where a run has no phases."""
    taken = [session.run_in_phases(inputs[run % len(inputs)]) for run in range(2 * runs)]
    found = [phases for phases in taken[runs:] if phases is not None]
    if not found:
        return None
    return Phases(*(float(np.median([astuple(each)[at] for each in found])) for at in range(len(fields(Phases)))))


@dataclass
class _Lane:
    """One session while it is being timed."""

    name: str
    session: Session
    inputs: Sequence[Arrays]
    clock_ns: Clock
    block_runs: int = 1
    warmup_runs: int = 0
    runs: int = 0
    taken: list[tuple[int, int]] = field(default_factory=list)  # (round, nanoseconds)

    def run_ns(self) -> int:
        inputs = self.inputs[self.runs % len(self.inputs)]
        self.runs += 1
        started = self.clock_ns()
        self.session.run(inputs)
        return self.clock_ns() - started

    def warm_up(self, settings: TimingSettings) -> None:
        """Also sets how many runs a block has, from the median of the second half."""
        taken: list[int] = []
        while len(taken) < settings.warmup_runs or sum(taken) < settings.warmup_seconds * 1e9:
            taken.append(self.run_ns())
        self.warmup_runs = len(taken)
        run_seconds = max(float(np.median(taken[len(taken) // 2 :])), 1.0) / 1e9
        wanted = min(max(settings.seconds / run_seconds, settings.min_samples), settings.max_samples)
        affordable = settings.max_seconds / run_seconds / settings.rounds
        self.block_runs = max(min(math.ceil(wanted / settings.rounds), int(affordable)), 1)

    def run_block(self, at_round: int) -> None:
        if self.block_runs > 1:
            # The first run finds the caches full of another engine's data (up to 25 % slower): untimed, unless
            # there is one run a block, which is then so long that it does not matter.
            self.run_ns()
        self.taken += [(at_round, self.run_ns()) for _ in range(self.block_runs)]

    def samples(self, batch_size: int, complete: bool) -> LatencySamples:
        taken = np.array(self.taken, np.int64)
        return LatencySamples(
            session=self.name,
            batch_size=batch_size,
            milliseconds=taken[:, 1] / 1e6,
            rounds=taken[:, 0].astype(np.int32),
            warmup_runs=self.warmup_runs,
            complete=complete,
            conditions=self.session.conditions,
        )


def _run_rounds(
    lanes: Sequence[_Lane],
    settings: TimingSettings,
    random: np.random.Generator,
    go_on: Callable[[int], None],
    clock_ns: Clock,
) -> int:
    """Runs the rounds, every lane once in each, in random order; returns how many there were."""
    for lane in lanes:
        lane.warm_up(settings)
    deadline_ns = clock_ns() + int(settings.max_seconds * len(lanes) * 1e9)
    for at_round in range(settings.rounds):
        for index in random.permutation(len(lanes)):
            lanes[index].run_block(at_round)
        go_on(at_round + 1)
        if clock_ns() >= deadline_ns:
            return at_round + 1
    return settings.rounds


def _progress(on_round: RoundDone | None, done_before: int, total: int) -> Callable[[int], None]:
    def go_on(rounds: int) -> None:
        if on_round is not None and not on_round(done_before + rounds, total):
            raise MeasurementCancelled(f"measuring latency was stopped after {done_before + rounds} of {total} rounds")

    return go_on


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check(sessions: Mapping[str, Any], feeds: Mapping[int, Sequence[Arrays]]) -> None:
    if not sessions or not feeds:
        raise InvalidMeasurement("nothing to time: give at least one session and the inputs of one batch size")
    for batch_size, inputs in feeds.items():
        if len(inputs) < 2:
            raise InvalidMeasurement(
                f"batch size {batch_size}: {len(inputs)} input set(s), which caches would serve; give at least 2"
            )
        sizes = {len(array) for arrays in inputs for array in arrays.values()}
        if sizes != {batch_size}:
            raise InvalidMeasurement(f"batch size {batch_size}: its inputs hold batches of {sorted(sizes)}")
