"""What each engine gets right and how long it takes, on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

from pydantic import AfterValidator, Field, PositiveInt, field_validator

from engines.machine import this_machine
from engines.timing import PRESETS
from pipeline.artifact import Artifact, Artifacts, Engines, Graph, Measurements, Splits, Student, Teacher
from pipeline.building.built import BuiltRecord, built_records
from pipeline.building.engine_errors import engine_errors_explained
from pipeline.context import Context
from pipeline.data.dataset import open_dataset
from pipeline.files import atomic
from pipeline.files.archive import write_npz
from pipeline.measuring.accuracy import Predictions, TestSplit
from pipeline.measuring.latencies import latencies, phases_of, sample_arrays, summaries
from pipeline.measuring.loaded_engines import loaded_engines, peak_memory, why_not_run
from pipeline.names import checked_distinct, unknown
from pipeline.process.torch_state import set_up_torch
from pipeline.stage import Stage
from pipeline.tasks.intervals import Interval


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
            sessions = loaded_engines(records, inputs[Engines], stack)
            for name, running in sessions.items():
                with engine_errors_explained(name):
                    found[name] = test.of_session(running.session, running.target, *running.batch_sizes)
            metrics = {name: test.metric(each) for name, each in found.items()}
            _say_metrics(metrics, context)
            timed = latencies(sessions, self.batch_sizes, PRESETS[self.preset], test, context)
            phases = phases_of(sessions, self.batch_sizes, test, context)
        interface = test.dataset.interface
        memory = {name: peak_memory(running, self.batch_sizes, interface) for name, running in sessions.items()}
        document = {
            "metric": context.task.metric,
            "interval": test.interval_in_words,
            "chance": test.chance,
            "test_samples": len(test.indices),
            "accuracy": {name: asdict(metric) for name, metric in metrics.items()},
            "accuracy_ratio_to_fp32": _ratios(found, records, test),
            "latency": summaries(timed, phases, records, context.threads),
            "peak_memory_bytes": memory,
            "not_measured": {record.name: why for record in records if (why := why_not_run(record)) is not None},
            "machine": this_machine().to_json(),
        }
        atomic.write_json(target / "measurements.json", document)
        write_npz(target / "samples.npz", sample_arrays(timed))
        outputs = {
            f"{form.replace('/', '.')}.{name}": array
            for form, each in found.items()
            for name, array in each.outputs.items()
        }
        write_npz(target / "predictions.npz", {"labels": test.labels, "indices": test.indices, **outputs})


def _say_metrics(metrics: Mapping[str, Interval], context: Context) -> None:
    for name, found in metrics.items():
        context.say(f"{name}: {context.task.metric} {found.value:.2%} on {found.n} test samples")


def _ratios(found: Mapping[str, Predictions], records: tuple[BuiltRecord, ...], test: TestSplit) -> dict[str, Any]:
    pairs = {
        record.name: test.ratio(found[record.name], found[record.reference])
        for record in records
        if record.precision != "fp32" and record.name in found and record.reference in found
    }
    return {name: asdict(ratio) for name, ratio in pairs.items() if ratio is not None}
