"""How long the loaded engines take, side by side, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from engines.base import Arrays
from engines.latency import compare, summarize
from engines.run_options import Phases
from engines.timing import (
    InvalidMeasurement,
    LatencySamples,
    MeasurementCancelled,
    TimingSettings,
    measure_latency,
    median_phases,
)
from pipeline.building.built import BuiltRecord
from pipeline.building.engine_errors import engine_errors_explained
from pipeline.building.fed_session import FedSession, both_forms
from pipeline.context import Context
from pipeline.errors import MeasurementInvalid
from pipeline.measuring.accuracy import Inputs, TestSplit
from pipeline.measuring.loaded_engines import LoadedEngine

# Distinct inputs that timed runs rotate through: one cached tensor would flatter.
INPUT_SETS = 8


def latencies(
    engines: Mapping[str, LoadedEngine],
    batch_sizes: tuple[int, ...],
    preset: TimingSettings,
    test: TestSplit,
    context: Context,
) -> dict[tuple[str, int], LatencySamples]:
    """By name and batch size, timed side by side; none where no engine runs here."""
    if not engines:
        context.say("measure: none of the engines can run here")
        return {}
    found: dict[tuple[str, int], LatencySamples] = {}
    rounds_each = preset.rounds
    with context.progress.phase("timing", rounds_each * len(batch_sizes)) as phase:
        for position, size in enumerate(batch_sizes):
            # Engines whose profile ends below a batch size are not timed there.
            able = {name: each for name, each in engines.items() if each.takes(size)}

            def on_round(rounds: int, _: int, before: int = position * rounds_each) -> bool:
                phase.reach(before + rounds)
                return not context.cancellation.asked

            if able:
                found |= _timed(able, size, test, preset, on_round, context)
    return found


def _timed(
    running: Mapping[str, LoadedEngine],
    batch_size: int,
    test: TestSplit,
    settings: TimingSettings,
    on_round: Callable[[int, int], bool],
    context: Context,
) -> dict[tuple[str, int], LatencySamples]:
    sessions = {name: each.session for name, each in running.items()}
    inputs = _input_sets(test.dataset.inputs, test, batch_size, context)
    if any(each.takes_bytes for each in running.values()):
        as_bytes = _input_sets(test.dataset.bytes_of, test, batch_size, context)
        inputs = [both_forms(*each) for each in zip(inputs, as_bytes, strict=True)]
        # All of them, so that picking costs each the same.
        sessions = {name: FedSession(each.session, each.target) for name, each in running.items()}
    with engine_errors_explained("timing"):
        try:
            return measure_latency(sessions, {batch_size: inputs}, settings, on_round)
        except MeasurementCancelled:
            context.cancellation.check()
            raise


def _input_sets(inputs: Inputs, test: TestSplit, batch_size: int, context: Context) -> list[Arrays]:
    """Of the same images whatever is asked of them."""
    random = np.random.default_rng(context.seed)
    return [inputs(random.choice(test.indices, batch_size)) for _ in range(INPUT_SETS)]


def phases_of(
    sessions: Mapping[str, LoadedEngine], batch_sizes: tuple[int, ...], test: TestSplit, context: Context
) -> dict[tuple[str, int], Phases]:
    """Copies and compute of the engines that run on a GPU, timed apart, beside their latency."""
    found = {}
    for name, running in sessions.items():
        inputs = test.dataset.bytes_of if running.takes_bytes else test.dataset.inputs
        for size in batch_sizes:
            if not running.takes(size):
                continue
            context.cancellation.check()
            with engine_errors_explained(name):
                phases = median_phases(running.session, _input_sets(inputs, test, size, context))
            if phases is not None:
                found[name, size] = phases
    return found


def summaries(
    samples: Mapping[tuple[str, int], LatencySamples],
    phases: Mapping[tuple[str, int], Phases],
    records: tuple[BuiltRecord, ...],
    threads: int,
) -> dict[str, list[dict[str, Any]]]:
    """By name, an entry a batch size; raises MeasurementInvalid where the samples do not tell."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for (name, size), each in samples.items():
            if name != record.name:
                continue
            try:
                entry = {"batch_size": size, "threads": threads, **summarize(each).to_json()}
                reference = samples.get((record.reference, size))
                if record.precision != "fp32" and reference is not None:
                    entry["versus_fp32"] = compare(each, reference).to_json()
            except InvalidMeasurement as error:
                raise MeasurementInvalid(str(error)) from error
            entry["conditions"] = asdict(each.conditions)
            if (name, size) in phases:
                entry["phases"] = asdict(phases[name, size])
            entry["quantiles_ms"] = np.quantile(each.milliseconds, np.linspace(0, 1, 41)).round(6).tolist()
            found.setdefault(name, []).append(entry)
    return found


def sample_arrays(samples: Mapping[tuple[str, int], LatencySamples]) -> dict[str, Any]:
    """Each sample and the round that it is of."""
    arrays: dict[str, Any] = {}
    for (name, size), each in samples.items():
        arrays[f"{name.replace('/', '.')}.batch{size}.ms"] = each.milliseconds
        arrays[f"{name.replace('/', '.')}.batch{size}.round"] = each.rounds
    return arrays
