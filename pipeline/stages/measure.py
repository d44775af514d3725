"""What each engine gets right and how long it takes, on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt, field_validator

from engines import ENGINES
from engines.base import BATCH, UINT8_NHWC, Arrays, Session, Target
from engines.latency import compare, summarize
from engines.machine import this_machine
from engines.peak_memory import peak_memory_bytes
from engines.run_options import Phases
from engines.timing import (
    PRESETS,
    InvalidMeasurement,
    LatencySamples,
    MeasurementCancelled,
    measure_latency,
    median_phases,
)
from pipeline.artifact import Artifact, Artifacts, Engines, Graph, Measurements, Splits, Student, Teacher
from pipeline.building.built import BuiltRecord, built_records
from pipeline.building.engine_errors import engine_errors_explained
from pipeline.building.fed_session import FedSession, both_forms
from pipeline.context import Context
from pipeline.data.dataset import open_dataset
from pipeline.distillation.trainer import set_up_torch
from pipeline.errors import MeasurementInvalid
from pipeline.files import atomic
from pipeline.files.archive import write_npz
from pipeline.measuring.accuracy import Inputs, Predictions, TestSplit
from pipeline.measuring.intervals import Interval
from pipeline.models.interface import Interface
from pipeline.names import checked_distinct, unknown
from pipeline.stage import Stage

# Distinct inputs that timed runs rotate through: one cached tensor would flatter.
INPUT_SETS = 8


@final
class Measure(Stage):
    """`[measure]`. The only stage that touches the test split."""

    name: ClassVar[str] = "measure"
    version: ClassVar[int] = 3
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Teacher, Student, Graph, Engines)
    makes: ClassVar[type[Artifact]] = Measurements
    tools: ClassVar[tuple[str, ...]] = ("torch", "torchmetrics", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy")

    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1), AfterValidator(checked_distinct)] = (1, 8, 32)
    preset: str = "quick"

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(unknown("preset", value, PRESETS))
        return value

    def surroundings(self) -> Mapping[str, Any]:
        return {"machine": this_machine().fingerprint()}

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        set_up_torch(context)
        test = TestSplit(open_dataset(inputs[Splits], context), context)
        records = built_records(inputs[Engines])
        found = dict(test.of_networks(inputs))
        found["onnx"] = test.of_graph(inputs)
        with ExitStack() as stack:
            sessions = _sessions(records, inputs[Engines], stack)
            for name, running in sessions.items():
                with engine_errors_explained(name):
                    found[name] = test.of_session(running.session, running.target, *running.batch_sizes)
            metrics = {name: test.metric(each) for name, each in found.items()}
            _say_metrics(metrics, context)
            latencies = self._latencies(sessions, test, context)
            phases = _phases(sessions, self.batch_sizes, test, context)
        interface = test.dataset.interface
        memory = {name: _peak_memory(running, self.batch_sizes, interface) for name, running in sessions.items()}
        document = {
            "metric": context.task.metric,
            "interval": test.interval_in_words,
            "chance": test.chance,
            "test_samples": len(test.indices),
            "accuracy": {name: asdict(metric) for name, metric in metrics.items()},
            "accuracy_ratio_to_fp32": _ratios(found, records, test),
            "latency": _summaries(latencies, phases, records, context.threads),
            "peak_memory_bytes": memory,
            "not_measured": {record.name: why for record in records if (why := _why_not_run(record)) is not None},
            "machine": this_machine().to_json(),
        }
        atomic.write_json(target / "measurements.json", document)
        write_npz(target / "samples.npz", _sample_arrays(latencies))
        outputs = {
            f"{form.replace('/', '.')}.{name}": array
            for form, each in found.items()
            for name, array in each.outputs.items()
        }
        write_npz(target / "predictions.npz", {"labels": test.labels, "indices": test.indices, **outputs})

    def _latencies(
        self, sessions: Mapping[str, _Running], test: TestSplit, context: Context
    ) -> dict[tuple[str, int], LatencySamples]:
        if not sessions:
            context.say("measure: none of the engines can run here")
            return {}
        found: dict[tuple[str, int], LatencySamples] = {}
        rounds_each = PRESETS[self.preset].rounds
        with context.progress.phase("timing", rounds_each * len(self.batch_sizes)) as phase:
            for position, size in enumerate(self.batch_sizes):
                # Engines whose profile ends below a batch size are not timed there.
                able = {name: each for name, each in sessions.items() if each.takes(size)}

                def on_round(rounds: int, _: int, before: int = position * rounds_each) -> bool:
                    phase.reach(before + rounds)
                    return not context.cancellation.asked

                if able:
                    found |= _timed(able, size, test, PRESETS[self.preset], on_round, context)
        return found


def _say_metrics(metrics: Mapping[str, Interval], context: Context) -> None:
    for name, found in metrics.items():
        context.say(f"{name}: {context.task.metric} {found.value:.2%} on {found.n} test samples")


@dataclass(frozen=True)
class _Running:
    """An engine that is loaded here."""

    target: Target
    session: Session
    file: Path
    sha256: str

    @property
    def takes_bytes(self) -> bool:
        return self.target.input == UINT8_NHWC

    @property
    def batch_sizes(self) -> tuple[int, int]:
        """Least and most that its first profile takes; a CPU takes any."""
        for_gpu = ENGINES[self.target.runtime].for_gpu
        return (self.target.batch.min, self.target.batch.max) if for_gpu else (1, sys.maxsize)

    def takes(self, batch_size: int) -> bool:
        """Through whichever profile."""
        batches = [profile[BATCH] for profile in self.target.profiles]
        for_gpu = ENGINES[self.target.runtime].for_gpu
        return not for_gpu or any(batch.min <= batch_size <= batch.max for batch in batches)


def _why_not_run(record: BuiltRecord) -> str | None:
    if record.state != "built":
        return record.reason
    return ENGINES[record.target.runtime].why_not_run(record.target)


def _sessions(records: tuple[BuiltRecord, ...], engines: Engines, stack: ExitStack) -> dict[str, _Running]:
    running = {}
    for record in records:
        if _why_not_run(record) is not None or record.file is None or record.sha256 is None:
            continue
        file = engines.path(record.file)
        with engine_errors_explained(record.name):
            session = ENGINES[record.target.runtime].open(file, record.sha256, record.target)
        stack.callback(session.close)
        running[record.name] = _Running(record.target, session, file, record.sha256)
    return running


def _timed(
    running: Mapping[str, _Running], batch_size: int, test: TestSplit, settings: Any, on_round: Any, context: Context
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


def _phases(
    sessions: Mapping[str, _Running], batch_sizes: tuple[int, ...], test: TestSplit, context: Context
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


def _peak_memory(running: _Running, batch_sizes: tuple[int, ...], interface: Interface) -> int | None:
    largest = max((size for size in batch_sizes if running.takes(size)), default=None)
    if largest is None:
        return None
    shapes = {spec.name: spec.shape for spec in interface.inputs}
    if running.takes_bytes:
        shapes = {name: (height, width, channels) for name, (channels, height, width) in shapes.items()}
    with engine_errors_explained("peak memory"):
        return peak_memory_bytes(
            running.target.runtime, running.file, running.sha256, running.target, largest, shapes=shapes
        )


def _ratios(found: Mapping[str, Predictions], records: tuple[BuiltRecord, ...], test: TestSplit) -> dict[str, Any]:
    pairs = {
        record.name: test.ratio(found[record.name], found[record.reference])
        for record in records
        if record.precision != "fp32" and record.name in found and record.reference in found
    }
    return {name: asdict(ratio) for name, ratio in pairs.items() if ratio is not None}


def _summaries(
    samples: Mapping[tuple[str, int], LatencySamples],
    phases: Mapping[tuple[str, int], Phases],
    records: tuple[BuiltRecord, ...],
    threads: int,
) -> dict[str, list[dict[str, Any]]]:
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


def _sample_arrays(samples: Mapping[tuple[str, int], LatencySamples]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for (name, size), each in samples.items():
        arrays[f"{name.replace('/', '.')}.batch{size}.ms"] = each.milliseconds
        arrays[f"{name.replace('/', '.')}.batch{size}.round"] = each.rounds
    return arrays
