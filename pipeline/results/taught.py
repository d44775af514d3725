"""How the student was taught, as the report shows it: read back from what the training stages wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.artifact import TARGET, Student, Teacher
from pipeline.reporting.result import Curve, Distillation, LossTerm, Search, Trial


def distillation(student: Student) -> Distillation:
    """The terms of its loss, and how the training went."""
    model, metrics = student.json("model.json"), student.json("metrics.json")
    taught_by = metrics["teachers"]
    return Distillation(
        terms=tuple(LossTerm(**term) for term in model["losses"]),
        teachers=max(1, taught_by),
        combination=metrics["combine"] if taught_by > 1 else "",
        epochs=metrics["student"]["epochs"],
        best_epoch=metrics["student"]["best_epoch"],
        compression_ratio=model["teacher_parameters"] / model["parameters"],
        teacher_outputs=metrics["teacher_outputs"],
        optimizer=_optimizer(model["optimizer"]),
        extras=tuple(metrics["extras"]),
    )


def _optimizer(settings: Mapping[str, Any]) -> str:
    return (
        f"{settings['name']}, learning rate {settings['learning_rate']:g} ({settings['schedule']['name']}), "
        f"weight decay {settings['weight_decay']:g}"
    )


def curves(artifact: Teacher | Student) -> Iterator[Curve]:
    """Of every training in its events."""
    lines = artifact.path("events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    for phase in dict.fromkeys(event["phase"] for event in events):
        own = [event for event in events if event["phase"] == phase]
        metrics = [event["validation"] for event in own]
        # Of equally good epochs the later is kept.
        best = max(range(len(own)), key=lambda index: (metrics[index], index))
        yield Curve(
            phase=phase,
            epochs=tuple(float(event["epoch"]) for event in own),
            loss=tuple(event["loss"] for event in own),
            validation=tuple(metrics),
            best_epoch=float(own[best]["epoch"]),
        )


def search_of(student: Student) -> Search | None:
    """What was tried to meet a target, where the recipe has one."""
    if not student.path(TARGET).exists():
        return None
    found = student.json(TARGET)
    trials = tuple(
        Trial(
            number=trial["number"],
            state=trial["state"],
            settings=trial["settings"],
            validation=trial["validation"],
            epochs=trial["epochs"],
            chosen=trial["number"] == found["chosen"],
        )
        for trial in found["trials"]
    )
    shown = {name: found[name] for name in ("wanted", "wanted_as", "met", "best", "budget", "stopped")}
    return Search(trials=trials, **shown)
