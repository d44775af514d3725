"""What the measurements say beyond the gates, for the report's reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.reporting.model import Estimate
from pipeline.reporting.result import Finding


def accuracy_findings(measured: Mapping[str, Any], chance: float) -> Iterator[Finding]:
    """What no ratio between two engines shows: networks that learned nothing, or lost much on the way.

    `chance` is the metric of the best answer on the test split that does not look at its input.
    """
    metric = measured["metric"]
    accuracy = {name: Estimate(**found) for name, found in measured["accuracy"].items()}
    teacher, student, baseline = accuracy["teacher"], accuracy["student"], accuracy.get("baseline")
    for name, found in (("teacher", teacher), ("student", student)):
        if found.low <= chance:
            found_and_chance = f"{metric} {found.value:.1%}; the best constant answer has {chance:.1%}"
            message = f"the {name} is at the level of chance ({found_and_chance})"
            yield Finding(severity="error", message=f"{message}: another class order or preprocessing, or no training?")
    if student.high < teacher.low:
        lost = f"{(teacher.value - student.value) * 100:.1f} points"
        yield Finding(severity="warning", message=f"the student's {metric} is {lost} below its teacher's")
    if baseline is not None and student.high < baseline.low:
        gap = f"{(baseline.value - student.value) * 100:.1f} points of {metric}"
        message = f"labels alone teach this student better than the teacher does, by {gap}"
        yield Finding(severity="warning", message=f"{message}: look at the loss terms, their weights and the teacher")


def teacher_findings(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    """What each teacher makes of the samples that it teaches on; `metrics` is the teacher stage's."""
    metric = metrics["metric"]
    scores = {"teacher": metrics, **{name: found for name, found in metrics.items() if isinstance(found, Mapping)}}
    for name, found in scores.items():
        told = f"{metric} {found['train']:.1%} on training samples; one answer for all reaches {found['chance']:.1%}"
        yield Finding(severity="note", message=f"{name}: {told}")


def timing_findings(measured: Mapping[str, Any]) -> Iterator[Finding]:
    """What a reader of the latencies must know: unsteady clocks, and engines that quantization did not make faster."""
    for name, entries in measured["latency"].items():
        if drifting := [entry for entry in entries if entry["drifting"]]:
            sizes = ", ".join(f"{entry['batch_size']} ({entry['drift']:+.0%})" for entry in drifting)
            message = f"{name} drifted while it was timed, at batch {sizes}: a neighbour, clocks or heat"
            yield Finding(severity="warning", message=message)
        if cut := [str(entry["batch_size"]) for entry in entries if not entry["complete"]]:
            message = f"{name}: the time limit cut the timing short, at batch {', '.join(cut)}"
            yield Finding(severity="warning", message=message)
        slower = [entry for entry in entries if (entry.get("versus_fp32") or {}).get("verdict") == "slower"]
        if slower:
            sizes = ", ".join(f"{entry['batch_size']} ({entry['versus_fp32']['ratio']:.2f} times)" for entry in slower)
            message = f"{name} is slower than FP32 here, at batch {sizes}: ship FP32, or see what was really built"
            yield Finding(severity="warning", message=message)
