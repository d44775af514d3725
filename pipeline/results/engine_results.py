"""Each engine of a run as the report shows it: what was built, what it gets right, how long it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from engines import ENGINES
from engines.base import QUANTIZED_PRECISIONS, Target
from engines.compatibility import PORTABLE_RTX
from pipeline.artifact import Engines
from pipeline.building.auditing import audit_of, opponent_of
from pipeline.building.built import BuiltRecord, built_records
from pipeline.reporting.audit_result import AuditPattern, AuditSummary
from pipeline.reporting.model import Estimate
from pipeline.reporting.result import EngineResult, GpuRun, Latency

State = Literal["measured", "built", "not_built"]


def engine_results(artifact: Engines, measured: Mapping[str, Any]) -> Iterator[EngineResult]:
    """One for each engine that the recipe asks for; `measured` is the measure stage's."""
    audits = artifact.json("audit.json")
    for record in built_records(artifact):
        accuracy = measured["accuracy"].get(record.name)
        state: State = "measured" if accuracy is not None else record.state
        yield EngineResult(
            target=record.target.name,
            runtime=record.target.runtime,
            precision=record.precision,
            optional=record.target.optional,
            state=state,
            failed=record.failed,
            reason="" if state == "measured" else measured["not_measured"][record.name],
            runs_on=_runs_on(record.target),
            file=record.file,
            bytes=record.bytes,
            sha256=record.sha256,
            takes=record.target.input or "",
            parity="" if record.parity is None or record.parity.state == "not_run" else record.parity.found,
            audit=_audit(record, audits),
            accuracy=None if accuracy is None else Estimate(**accuracy),
            accuracy_ratio_to_fp32=_estimate(measured["accuracy_ratio_to_fp32"].get(record.name)),
            latency=tuple(_latency(entry) for entry in measured["latency"].get(record.name, ())),
            peak_memory_bytes=measured["peak_memory_bytes"].get(record.name),
        )


def _runs_on(target: Target) -> str:
    """The GPUs that its engines were built for, in words."""
    if not ENGINES[target.runtime].for_gpu:
        return "this CPU"
    if not target.compute_capabilities:
        return (
            f"compute capability {', '.join(PORTABLE_RTX)}" if target.runtime == "tensorrt-rtx" else "the GPU at hand"
        )
    return f"compute capability {', '.join(target.compute_capabilities)}"


def _audit(record: BuiltRecord, audits: Mapping[str, Any]) -> AuditSummary | None:
    found = audits.get(record.name)
    if found is None:
        return None
    audit, opponent = audit_of(found), opponent_of(found)
    half = None if opponent is None else opponent.audit
    return AuditSummary(
        kernels=audit.kernels,
        products=audit.products,
        int8_products=audit.int8,
        fp8_products=audit.float8,
        float_products=audit.float_products,
        activation_bytes=audit.activation_bytes,
        quantized_share=audit.quantized_share if record.precision in QUANTIZED_PRECISIONS else None,
        fp16_kernels=None if half is None else half.kernels,
        fp16_activation_bytes=None if half is None else half.activation_bytes,
        patterns=tuple(
            AuditPattern(**{key: each[key] for key in AuditPattern.model_fields}) for each in found["patterns"]
        ),
        remarks=() if half is None else tuple(found["opponent"]["remarks"]),
    )


def _latency(entry: Mapping[str, Any]) -> Latency:
    low, high = entry["p50_interval_ms"]
    versus = entry.get("versus_fp32")
    ratio = None
    if versus is not None:
        ratio = Estimate(
            value=versus["ratio"], low=versus["interval"][0], high=versus["interval"][1], n=versus["rounds"]
        )
    return Latency(
        batch_size=entry["batch_size"],
        threads=entry["threads"],
        samples=entry["samples"],
        p50_ms=entry["p50_ms"],
        p50_low_ms=low,
        p50_high_ms=high,
        p90_ms=entry["p90_ms"],
        p99_ms=entry["p99_ms"],
        cv=entry["coefficient_of_variation"],
        quantiles_ms=tuple(entry["quantiles_ms"]),
        ratio_to_fp32=ratio,
        versus_fp32=None if versus is None else versus["verdict"],
        gpu=gpu_run(entry),
    )


def gpu_run(entry: Mapping[str, Any]) -> GpuRun | None:
    """Of one entry of a latency; None where it ran on a CPU."""
    conditions, phases = entry["conditions"], entry.get("phases", {})
    if not any(conditions.values()):
        return None
    return GpuRun(**conditions, **{name: phases.get(name) for name in ("h2d_ms", "gpu_compute_ms", "d2h_ms")})


def _estimate(interval: Mapping[str, Any] | None) -> Estimate | None:
    return None if interval is None else Estimate(**interval)
