"""The student beside its baseline, and the teacher that both leave as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_training import context_in, splits_in

from pipeline.artifact import Artifacts, Splits, Student, Teacher
from pipeline.distillation.losses.kd import KD
from pipeline.models.weights import load_network
from pipeline.stages.distill import Distill
from pipeline.stages.teacher import TrainTeacher

STUDENT = {"name": "plain", "widths": [4, 8]}


def taught(folder: Path, name: str, splits: Splits, **settings: Any) -> Teacher:
    context = context_in(folder / name, recipe_folder=folder)
    stage = TrainTeacher.model_validate(
        {"epochs": 6, "batch_size": 8, "optimizer": {"name": "adamw", "learning_rate": 0.02}, **settings}
    )
    stage.run(Artifacts([splits]), folder / name, context)
    return Teacher(folder / name)


def distilled(
    folder: Path, name: str, teacher: Teacher, splits: Splits, alpha: float = 0.3, **settings: Any
) -> Student:
    context = context_in(folder / name, recipe_folder=folder)
    losses = [{"name": "kd", "alpha": alpha}]
    stage = Distill.model_validate({"model": STUDENT, "epochs": 2, "batch_size": 8, "losses": losses, **settings})
    stage.run(Artifacts([splits, teacher]), folder / name, context)
    return Student(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distill")


@pytest.fixture(scope="module")
def splits(folder: Path) -> Splits:
    return splits_in(folder)


@pytest.fixture(scope="module")
def teacher(folder: Path, splits: Splits) -> Teacher:
    return taught(folder, "teacher", splits, model={"name": "residual", "widths": [8]})


def test_where_only_the_labels_count_student_and_baseline_end_with_the_same_bytes(
    folder: Path, splits: Splits, teacher: Teacher
) -> None:
    student = distilled(folder, "labels", teacher, splits, alpha=1.0)
    same = student.path("student.safetensors").read_bytes() == student.path("baseline.safetensors").read_bytes()
    assert same, "student and baseline do not start from the same weights, or do not see the same images"
    taught_student = distilled(folder, "taught", teacher, splits, alpha=0.0)
    for name, differs in (("baseline", False), ("student", True)):
        files = [each.path(f"{name}.safetensors").read_bytes() for each in (student, taught_student)]
        assert (files[0] != files[1]) == differs


def test_two_distillations_give_the_same_bytes(folder: Path, splits: Splits, teacher: Teacher) -> None:
    first, second = (distilled(folder, name, teacher, splits) for name in ("first", "second"))
    for name in ("student.safetensors", "last.safetensors", "baseline.safetensors", "metrics.json", "model.json"):
        assert first.path(name).read_bytes() == second.path(name).read_bytes(), name


def test_what_is_recorded_is_what_was_learned(folder: Path, splits: Splits, teacher: Teacher) -> None:
    student = distilled(folder, "recorded", teacher, splits)
    events = [json.loads(line) for line in student.path("events.jsonl").read_text().splitlines()]
    assert [(event["phase"], event["epoch"]) for event in events] == [
        ("student", 1),
        ("student", 2),
        ("baseline", 1),
        ("baseline", 2),
    ]
    metrics = student.json("metrics.json")
    assert metrics["student"]["validation"] == max(event["validation"] for event in events[:2])
    assert metrics["baseline"]["last"] == events[3]["validation"]
    document = student.json("model.json")
    assert document["teacher_parameters"] == teacher.json("model.json")["parameters"]
    assert document["losses"] == [
        {
            "name": "kd",
            "formula": KD.formula,
            "paper": KD.paper,
            "weight": 1.0,
            "schedule": "",
            "settings": {"temperature": 4.0, "alpha": 0.3},
        }
    ]
    assert metrics["student"]["epochs"] == 2
    network = load_network(student, "student.safetensors", context_in(folder))
    assert document["parameters"] == sum(parameter.numel() for parameter in network.parameters())


def test_without_a_baseline_there_is_none(folder: Path, splits: Splits, teacher: Teacher) -> None:
    student = distilled(folder, "alone", teacher, splits, baseline=False)
    assert not student.path("baseline.safetensors").exists()
    assert "baseline" not in student.json("metrics.json")


def test_a_teacher_is_only_ever_asked_frozen_and_in_evaluation_mode(folder: Path, splits: Splits) -> None:
    (folder / "strict.py").write_text(
        "import torch\n"
        "from pipeline.networks.plain import PlainNetwork\n\n\n"
        "class Strict(PlainNetwork):\n"
        "    def forward(self, images):\n"
        "        if self.training or not torch.is_inference_mode_enabled():\n"
        "            raise RuntimeError('the teacher must not learn')\n"
        "        return super().forward(images)\n\n\n"
        "def make():\n"
        "    return Strict(1, [4, 8], 3)\n"
    )
    known = taught(folder, "known", splits, model={"name": "plain", "widths": [4, 8]})
    shutil.copy(known.path("teacher.safetensors"), folder / "strict.safetensors")
    strict = taught(folder, "asked", splits, model={"file": "strict.py:make"}, weights="strict.safetensors")
    assert strict.path("teacher.safetensors").read_bytes() == (folder / "strict.safetensors").read_bytes()
    assert strict.path("events.jsonl").read_text() == ""
    student = distilled(folder, "strict", strict, splits)
    assert student.json("metrics.json")["student"]["best_epoch"] in (1, 2)
