"""What the report says of the measurements beyond the gates."""

from __future__ import annotations

from typing import Any

from pipeline.results.findings import accuracy_findings, timing_findings


def estimate(value: float, half: float = 0.02) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": 300}


def said(
    *, teacher: float, student: float, baseline: float | None = None, metric: str = "accuracy", chance: float = 0.1
) -> list[str]:
    accuracy = {"teacher": estimate(teacher), "student": estimate(student)}
    if baseline is not None:
        accuracy["baseline"] = estimate(baseline)
    measured = {"metric": metric, "accuracy": accuracy}
    return [f"{each.severity}: {each.message}" for each in accuracy_findings(measured, chance)]


def entry(batch_size: int = 1, **changes: Any) -> dict[str, Any]:
    return {"batch_size": batch_size, "drifting": False, "drift": 0.0, "complete": True, **changes}


def test_a_chain_as_it_should_be_needs_no_word() -> None:
    assert said(teacher=0.98, student=0.97, baseline=0.96) == []
    assert list(timing_findings({"latency": {"cpu/int8": [entry()]}})) == []


def test_networks_that_learned_nothing_are_named() -> None:
    first, second = said(teacher=0.10, student=0.11, baseline=0.1)
    assert first.startswith(
        "error: the teacher is at the level of chance (accuracy 10.0%; the best constant answer has 10.0%)"
    )
    assert second.startswith(
        "error: the student is at the level of chance (accuracy 11.0%; the best constant answer has 10.0%)"
    )


def test_what_was_lost_on_the_way_is_said_where_it_is_more_than_noise() -> None:
    assert said(teacher=0.98, student=0.90) == ["warning: the student's accuracy is 8.0 points below its teacher's"]
    assert said(teacher=0.98, student=0.96) == []


def test_a_teacher_that_does_harm_is_said() -> None:
    found = said(teacher=0.98, student=0.90, baseline=0.97)
    assert (
        "warning: labels alone teach this student better than the teacher does, by 7.0 points of accuracy: look at"
        in found[1]
    )


def test_the_level_of_chance_is_what_the_data_make_it() -> None:
    assert said(teacher=0.9, student=0.9, chance=0.85) == []
    assert [each.partition(" (")[0] for each in said(teacher=0.9, student=0.87, chance=0.86)] == [
        "error: the student is at the level of chance"
    ]


def test_findings_speak_of_the_metric_of_the_task() -> None:
    found = said(teacher=0.4, student=-0.2, baseline=0.3, metric="variance explained", chance=0.0)
    assert "(variance explained -20.0%; the best constant answer has 0.0%)" in found[0]
    assert found[1] == "warning: the student's variance explained is 60.0 points below its teacher's"
    assert "by 50.0 points of variance explained: look at the loss terms" in found[2]


def test_timing_that_was_unsteady_cut_short_or_shows_a_slower_engine_is_said() -> None:
    slower = {"ratio": 1.7, "verdict": "slower"}
    entries = [entry(drifting=True, drift=0.07), entry(8, complete=False), entry(32, versus_fp32=slower)]
    assert [each.message for each in timing_findings({"latency": {"cpu/int8": entries}})] == [
        "cpu/int8 drifted while it was timed, at batch 1 (+7%): a neighbour, clocks or heat",
        "cpu/int8: the time limit cut the timing short, at batch 8",
        "cpu/int8 is slower than FP32 here, at batch 32 (1.70 times): ship FP32, or see what was really built",
    ]
