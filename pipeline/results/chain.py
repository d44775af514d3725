"""The chain of a run, from its teacher to each engine, as the report shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.artifact import Artifact, Artifacts, Engines, Graph, Student, Teacher
from pipeline.building.built import built_records
from pipeline.reporting.model import Estimate
from pipeline.reporting.result import ChainStep


def chain(inputs: Artifacts, measured: Mapping[str, Any]) -> Iterator[ChainStep]:
    """What each form of the network weighs, and what it gets right; `measured` is the measure stage's."""
    accuracy, student = measured["accuracy"], inputs[Student].json("model.json")
    teacher = inputs[Teacher].json("model.json")
    yield ChainStep(
        step="teacher",
        label="Teacher",
        parameters=teacher["parameters"],
        bytes=_size(inputs[Teacher], "teacher.safetensors"),
        accuracy=Estimate(**accuracy["teacher"]),
    )
    if "baseline" in accuracy:
        yield ChainStep(
            step="baseline",
            label="Student on labels alone",
            parameters=student["parameters"],
            bytes=_size(inputs[Student], "baseline.safetensors"),
            accuracy=Estimate(**accuracy["baseline"]),
            note="the same network and seed without a teacher; it goes no further",
        )
    yield ChainStep(
        step="student",
        label="Distilled student",
        parameters=student["parameters"],
        bytes=_size(inputs[Student], "student.safetensors"),
        accuracy=Estimate(**accuracy["student"]),
    )
    yield ChainStep(
        step="onnx",
        label="ONNX graph",
        parameters=student["parameters"],
        bytes=_size(inputs[Graph], "model.onnx"),
        accuracy=Estimate(**accuracy["onnx"]),
        note="the exported graph as written, without optimization",
    )
    for record in built_records(inputs[Engines]):
        if record.name in accuracy:
            yield ChainStep(
                step="engine",
                label=f"{record.target.name} {record.precision}",
                precision=record.precision,
                bytes=record.bytes,
                accuracy=Estimate(**accuracy[record.name]),
            )


def _size(artifact: Artifact, name: str) -> int:
    return artifact.path(name).stat().st_size
