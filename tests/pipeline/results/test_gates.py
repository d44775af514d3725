"""`[gates]`: what was measured, held against the limits."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.reporting.model import Estimate
from pipeline.reporting.result import EngineResult, GateResult, Latency, Search
from pipeline.reporting.verdict import verdict_from_gates
from pipeline.results.gates import Gates, gate_results, target_gate


def estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=value if low is None else low, high=value if high is None else high, n=360)


def engine(precision: str = "int8", **found: Any) -> EngineResult:
    return EngineResult(target="cpu", runtime="onnxruntime", precision=precision, state="measured", **found)


def latency(batch_size: int, ratio: Estimate | None) -> Latency:
    return Latency(
        batch_size=batch_size, samples=100, p50_ms=1.0, p50_low_ms=0.9, p50_high_ms=1.1, cv=0.1, ratio_to_fp32=ratio
    )


def only(results: tuple[GateResult, ...]) -> GateResult:
    (result,) = results
    return result


def test_without_gates_nothing_is_held_against_anything() -> None:
    assert gate_results(Gates(), [engine(accuracy=estimate(0.1))]) == ()


@pytest.mark.parametrize(("value", "state"), [(0.9899, "failed"), (0.99, "passed"), (1.01, "passed")])
def test_the_share_that_was_found_decides_at_the_limit_itself_too(value: float, state: str) -> None:
    result = only(gate_results(Gates(accuracy_ratio_to_fp32=0.99), [engine(accuracy_ratio_to_fp32=estimate(value))]))
    assert (result.state, result.value, result.limit, result.sense) == (state, value, 0.99, "at least")
    assert result.subject == "cpu int8"


@pytest.mark.parametrize(
    ("value", "low", "high", "detail"),
    [
        (0.995, 0.98, 1.01, "360 images leave [0.980, 1.010] open"),
        (0.985, 0.97, 0.995, "360 images leave [0.970, 0.995] open"),
        (0.995, 0.991, 0.999, ""),
        (0.95, 0.94, 0.96, ""),
    ],
)
def test_a_result_that_more_images_could_turn_says_so(value: float, low: float, high: float, detail: str) -> None:
    found = engine(accuracy_ratio_to_fp32=estimate(value, low, high))
    assert only(gate_results(Gates(accuracy_ratio_to_fp32=0.99), [found])).detail == detail


def test_what_the_samples_are_called_is_the_task_s_affair() -> None:
    found = engine(accuracy=estimate(0.9, 0.8, 0.95))
    assert (
        only(gate_results(Gates(accuracy=0.85), [found], "sequence")).detail
        == "360 sequences leave [0.800, 0.950] open"
    )


def test_a_search_that_found_its_student_is_a_gate_that_passed() -> None:
    gate = target_gate(Search(wanted=0.99, wanted_as="0.99", met=True, best=0.9917, stopped="trial 3 met the target"))
    assert (gate.name, gate.subject, gate.sense) == ("distill.target", "student, validation", "at least")
    assert (gate.limit, gate.value, gate.state, gate.detail) == (0.99, 0.9917, "passed", "")


def test_a_search_that_found_none_is_a_gate_that_failed_and_says_why_it_stopped() -> None:
    asked = "0.5 points below the teacher's 99.44 %"
    gate = target_gate(Search(wanted=0.9894, wanted_as=asked, met=False, best=0.985, stopped="20 trials are spent"))
    verdict, reasons = verdict_from_gates([gate])
    assert verdict == "do_not_ship"
    assert reasons == (
        "distill.target of student, validation is 0.985, at least 0.9894 was asked "
        "(0.5 points below the teacher's 99.44 %; 20 trials are spent).",
    )


def test_a_search_in_which_every_trial_failed_is_a_gate_that_failed() -> None:
    gate = target_gate(Search(wanted=0.99, met=False, stopped="every trial failed"))
    assert verdict_from_gates([gate]) == (
        "do_not_ship",
        ("distill.target of student, validation failed: at least 0.99 was asked (every trial failed).",),
    )


def test_accuracy_is_asked_of_every_engine_a_ratio_only_of_those_that_have_one() -> None:
    engines = [
        engine("fp32", accuracy=estimate(0.98)),
        engine("int8", accuracy=estimate(0.97), accuracy_ratio_to_fp32=estimate(0.9898)),
    ]
    results = gate_results(Gates(accuracy=0.975, accuracy_ratio_to_fp32=0.9), engines)
    assert [(result.name, result.subject, result.state) for result in results] == [
        ("accuracy", "cpu fp32", "passed"),
        ("accuracy", "cpu int8", "failed"),
        ("accuracy_ratio_to_fp32", "cpu int8", "passed"),
    ]


@pytest.mark.parametrize(
    ("low", "high", "state", "detail"),
    [
        (0.5, 0.9, "passed", ""),
        (1.05, 1.2, "failed", ""),
        (0.9, 1.1, "inconclusive", "the interval [0.900, 1.100] holds the limit"),
    ],
)
def test_a_latency_passes_only_where_its_whole_interval_does(low: float, high: float, state: str, detail: str) -> None:
    found = engine(latency=(latency(8, estimate((low + high) / 2, low, high)),))
    result = only(gate_results(Gates(latency_ratio_to_fp32=1.0), [found]))
    assert (result.state, result.detail, result.subject) == (state, detail, "cpu int8, batch 8")
    assert result.sense == "at most"


def test_every_batch_size_is_held_against_the_limit() -> None:
    found = engine(latency=(latency(1, estimate(0.8)), latency(8, estimate(1.2)), latency(32, None)))
    states = [result.state for result in gate_results(Gates(latency_ratio_to_fp32=1.0), [found])]
    assert states == ["passed", "failed"]


@pytest.mark.parametrize("name", list(Gates.model_fields))
def test_a_limit_that_nothing_here_could_be_held_against_is_no_pass(name: str) -> None:
    built = EngineResult(target="gpu", runtime="tensorrt", precision="int8", state="built", reason="no GPU here")
    result = only(gate_results(Gates.model_validate({name: 0.5}), [built]))
    assert (result.state, result.subject) == ("inconclusive", "every engine")
    assert result.detail == "no engine that it applies to was measured here"
    assert result.sense == ("at most" if name.startswith("latency") else "at least")


@pytest.mark.parametrize("gate", ["accuracy_ratio_to_fp32", "latency_ratio_to_fp32"])
def test_an_engine_without_fp32_beside_it_does_not_pass_a_ratio_in_silence(gate: str) -> None:
    alone = engine("int8", accuracy=estimate(0.9), latency=(latency(1, None),))
    result = only(gate_results(Gates.model_validate({gate: 0.99}), [engine("fp32", accuracy=estimate(0.9)), alone]))
    assert (result.name, result.state, result.subject) == (gate, "inconclusive", "cpu int8")
    assert result.detail == "its FP32 engine was not measured beside it: add 'fp32' to the target's precisions"
