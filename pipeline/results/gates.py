"""`[gates]`: the limits that decide whether to ship, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from calibration.counting import counted
from pipeline.reporting.model import Estimate
from pipeline.reporting.result import EngineResult, GateResult, Latency, Search

Sense = Literal["at least", "at most"]


class Gates(BaseModel):
    """Each limit that is set is held against every measured engine that it applies to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """The least that every engine reaches in the task's metric, whatever that is called."""
    accuracy_ratio_to_fp32: Annotated[float, Field(gt=0, le=1)] | None = None
    """The least share of its own FP32 engine's metric that an FP16 or INT8 engine keeps."""
    latency_ratio_to_fp32: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The most time that an FP16 or INT8 engine takes of its own FP32 engine's, at every batch size (medians)."""


def gate_results(gates: Gates, engines: Sequence[EngineResult], sample: str = "image") -> tuple[GateResult, ...]:
    """One result for each limit and engine; a limit that no engine here could be held against is inconclusive.

    `sample` is what one sample of the test split is called, for the words.
    """
    measured = [engine for engine in engines if engine.state == "measured"]
    results: list[GateResult] = []
    for name, limit, found in (
        ("accuracy", gates.accuracy, _accuracy),
        ("accuracy_ratio_to_fp32", gates.accuracy_ratio_to_fp32, _accuracy_ratio),
        ("latency_ratio_to_fp32", gates.latency_ratio_to_fp32, _latency_ratio),
    ):
        if limit is None:
            continue
        judged = [result for engine in measured for result in found(engine, limit, sample)]
        nowhere = _undecided(name, limit, "every engine", "no engine that it applies to was measured here")
        results += judged or [nowhere]
    return tuple(results)


def built_gate(engines: Sequence[EngineResult]) -> Iterator[GateResult]:
    """A failed gate where an engine that had to be built was not; nothing where all were."""
    failed = [engine for engine in engines if engine.failed]
    if not failed:
        return
    wanted = [engine for engine in engines if engine.failed or engine.state != "not_built"]
    yield GateResult(
        name="engines built",
        limit=len(wanted),
        value=len(wanted) - len(failed),
        state="failed",
        subject=", ".join(f"{engine.target} {engine.precision}" for engine in failed),
        detail="; ".join((*dict.fromkeys(engine.reason for engine in failed), "--force build tries again")),
    )


def target_gate(search: Search) -> GateResult:
    """A student that was searched for and not found is a failed gate."""
    as_asked = search.wanted_as if search.wanted_as != f"{search.wanted:g}" else ""
    why = "" if search.met else search.stopped
    return GateResult(
        name="distill.target",
        limit=search.wanted,
        value=search.best,
        state="passed" if search.met else "failed",
        subject="student, validation",
        detail="; ".join(part for part in (as_asked, why) if part),
    )


def _undecided(name: str, limit: float, subject: str, why: str) -> GateResult:
    sense: Sense = "at most" if name.startswith("latency") else "at least"
    return GateResult(name=name, limit=limit, sense=sense, state="inconclusive", subject=subject, detail=why)


def _without_reference(name: str, limit: float, engine: EngineResult) -> Iterator[GateResult]:
    """A ratio to FP32 that cannot be formed is not a limit that was met."""
    if engine.precision != "fp32":
        why = "its FP32 engine was not measured beside it: add 'fp32' to the target's precisions"
        yield _undecided(name, limit, _name(engine), why)


def _accuracy(engine: EngineResult, limit: float, sample: str) -> Iterator[GateResult]:
    if engine.accuracy is not None:
        yield _at_least("accuracy", limit, engine.accuracy, _name(engine), sample)


def _accuracy_ratio(engine: EngineResult, limit: float, sample: str) -> Iterator[GateResult]:
    if engine.accuracy_ratio_to_fp32 is not None:
        yield _at_least("accuracy_ratio_to_fp32", limit, engine.accuracy_ratio_to_fp32, _name(engine), sample)
    else:
        yield from _without_reference("accuracy_ratio_to_fp32", limit, engine)


def _latency_ratio(engine: EngineResult, limit: float, _: str) -> Iterator[GateResult]:
    found = [(latency, latency.ratio_to_fp32) for latency in engine.latency if latency.ratio_to_fp32 is not None]
    for latency, ratio in found:
        yield _at_most(latency, ratio, limit, _name(engine))
    if not found:
        yield from _without_reference("latency_ratio_to_fp32", limit, engine)


def _at_least(name: str, limit: float, found: Estimate, subject: str, sample: str) -> GateResult:
    # The share that was found decides; whether the test split could have told otherwise is said beside it.
    passed = found.value >= limit
    unsure = found.low < limit if passed else found.high >= limit
    return GateResult(
        name=name,
        limit=limit,
        value=found.value,
        state="passed" if passed else "failed",
        subject=subject,
        detail=f"{counted(found.n, sample)} leave [{found.low:.3f}, {found.high:.3f}] open" if unsure else "",
    )


def _at_most(latency: Latency, found: Estimate, limit: float, subject: str) -> GateResult:
    passed, failed = found.high <= limit, found.low > limit
    return GateResult(
        name="latency_ratio_to_fp32",
        limit=limit,
        sense="at most",
        value=found.value,
        state="passed" if passed else "failed" if failed else "inconclusive",
        subject=f"{subject}, batch {latency.batch_size}",
        detail="" if passed or failed else f"the interval [{found.low:.3f}, {found.high:.3f}] holds the limit",
    )


def _name(engine: EngineResult) -> str:
    return f"{engine.target} {engine.precision}"
