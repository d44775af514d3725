"""`[gates]`: the limits that decide whether to ship, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipeline.reporting.result import EngineResult, Estimate, GateResult, Latency


class Gates(BaseModel):
    """Each limit that is set is held against every measured engine that it applies to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """The least accuracy of every engine."""
    accuracy_ratio_to_fp32: Annotated[float, Field(gt=0, le=1)] | None = None
    """The least share of its own FP32 engine's accuracy that an FP16 or INT8 engine keeps."""
    latency_ratio_to_fp32: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The most time that an FP16 or INT8 engine takes of its own FP32 engine's, at every batch size (medians)."""


def gate_results(gates: Gates, engines: Sequence[EngineResult]) -> tuple[GateResult, ...]:
    """One result for each limit and engine; a limit that no engine here could be held against is inconclusive."""
    measured = [engine for engine in engines if engine.state == "measured"]
    results: list[GateResult] = []
    for name, limit, found in (
        ("accuracy", gates.accuracy, _accuracy),
        ("accuracy_ratio_to_fp32", gates.accuracy_ratio_to_fp32, _accuracy_ratio),
        ("latency_ratio_to_fp32", gates.latency_ratio_to_fp32, _latency_ratio),
    ):
        if limit is None:
            continue
        judged = [result for engine in measured for result in found(engine, limit)]
        results += judged or [
            GateResult(
                name=name,
                limit=limit,
                sense="at most" if name.startswith("latency") else "at least",
                state="inconclusive",
                subject="every engine",
                detail="no engine that it applies to was measured here",
            )
        ]
    return tuple(results)


def _accuracy(engine: EngineResult, limit: float) -> Iterator[GateResult]:
    if engine.accuracy is not None:
        yield _at_least("accuracy", limit, engine.accuracy, _name(engine))


def _accuracy_ratio(engine: EngineResult, limit: float) -> Iterator[GateResult]:
    if engine.accuracy_ratio_to_fp32 is not None:
        yield _at_least("accuracy_ratio_to_fp32", limit, engine.accuracy_ratio_to_fp32, _name(engine))


def _latency_ratio(engine: EngineResult, limit: float) -> Iterator[GateResult]:
    for latency in engine.latency:
        if latency.ratio_to_fp32 is not None:
            yield _at_most(latency, latency.ratio_to_fp32, limit, _name(engine))


def _at_least(name: str, limit: float, found: Estimate, subject: str) -> GateResult:
    # The share that was found decides; whether the test split could have told otherwise is said beside it.
    passed = found.value >= limit
    unsure = found.low < limit if passed else found.high >= limit
    return GateResult(
        name=name,
        limit=limit,
        value=found.value,
        state="passed" if passed else "failed",
        subject=subject,
        detail=f"{found.n} images leave [{found.low:.3f}, {found.high:.3f}] open" if unsure else "",
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
