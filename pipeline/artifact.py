"""The kinds of files that stages exchange, one class a kind.

An artifact is a folder whose every file is listed, with its digest, in `manifest.json`. It is opened through
`pipeline.files.manifest`, which verifies it first; nothing here reads a file that was not verified.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from engines.base import QUANTIZED_PRECISIONS


@dataclass(frozen=True)
class Artifact:
    """A verified folder that one stage wrote."""

    folder: Path

    def path(self, name: str) -> Path:
        """A file of it."""
        return self.folder / name

    def json(self, name: str) -> Any:
        """A JSON file of it."""
        return json.loads(self.path(name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Splits(Artifact):
    """Which sample is used for what: splits.json, preprocess.json, classes.json, source.json, findings.json."""


@dataclass(frozen=True)
class Teacher(Artifact):
    """teacher.safetensors, model.json, metrics.json, events.jsonl; of further teachers `teacher_files`."""


class TeacherFiles(NamedTuple):
    """Of one of several teachers."""

    weights: str
    model: str


def teacher_files(index: int) -> TeacherFiles:
    """Of the teacher of this index: teacher.safetensors and model.json, teacher-2.safetensors and model-2.json, …"""
    suffix = "" if index == 0 else f"-{index + 1}"
    return TeacherFiles(f"teacher{suffix}.safetensors", f"model{suffix}.json")


TARGET = "target.json"
SENSITIVITY = "sensitivity.json"
FINDINGS = "findings.json"


@dataclass(frozen=True)
class Student(Artifact):
    """student.safetensors (best on validation), last.safetensors, baseline.safetensors, model.json, metrics.json.

    With a target also target.json: what was tried to reach it.
    """


@dataclass(frozen=True)
class Graph(Artifact):
    """model.onnx in FP32, parity.json, modules.json."""

    @property
    def model(self) -> Path:
        """The FP32 graph."""
        return self.path("model.onnx")


@dataclass(frozen=True)
class Graphs(Artifact):
    """The graphs that `build` compiles beside the FP32 one, and the statistics they came from."""

    def model(self, precision: str, family: str) -> Path:
        """The graph of a precision; INT8 and FP8 are one per placement family."""
        return self.path(f"{family}.{precision}.onnx" if precision in QUANTIZED_PRECISIONS else f"{precision}.onnx")


@dataclass(frozen=True)
class Engines(Artifact):
    """<target>/<precision>.{onnx,plan} with its .manifest.json, engines.json, audit.json."""


@dataclass(frozen=True)
class Measurements(Artifact):
    """measurements.json, samples.npz, predictions.npz."""


@dataclass(frozen=True)
class ReportFiles(Artifact):
    """report.html, report.md, report.json."""


Kind = TypeVar("Kind", bound=Artifact)


class Artifacts:
    """Artifacts by kind: `inputs[Graph].model`."""

    def __init__(self, artifacts: Iterable[Artifact] = ()) -> None:
        self._by_kind: dict[type[Artifact], Artifact] = {type(each): each for each in artifacts}

    def __getitem__(self, kind: type[Kind]) -> Kind:
        return cast("Kind", self._by_kind[kind])

    def __contains__(self, kind: object) -> bool:
        return kind in self._by_kind

    def by_kind(self) -> dict[type[Artifact], Artifact]:
        """All of them."""
        return dict(self._by_kind)

    def only(self, kinds: Iterable[type[Artifact]]) -> Artifacts:
        """What a stage declared, and nothing else."""
        return Artifacts(self._by_kind[kind] for kind in kinds)

    def and_(self, artifact: Artifact) -> Artifacts:
        """These and one more."""
        return Artifacts([*self._by_kind.values(), artifact])
