"""One page that says whether to ship, and on what evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from engines import ENGINES
from engines.base import QUANTIZED_PRECISIONS, Target
from engines.compatibility import PORTABLE_RTX
from pipeline.artifact import (
    FINDINGS,
    Artifact,
    Artifacts,
    Engines,
    Graph,
    Graphs,
    Measurements,
    ReportFiles,
    Splits,
    Student,
    Teacher,
)
from pipeline.building.auditing import audit_of, opponent_of
from pipeline.building.built import BuiltRecord, built_records
from pipeline.context import Context
from pipeline.files.manifest import read_manifest
from pipeline.quantizing.judged import budget_gates, layers_of
from pipeline.reporting.audit_result import AuditPattern, AuditSummary
from pipeline.reporting.model import Estimate
from pipeline.reporting.result import ChainStep, EngineResult, Finding, GpuRun, Latency, Report, StageResult
from pipeline.reporting.verdict import verdict_from_gates
from pipeline.results.findings import accuracy_findings, teacher_findings, timing_findings
from pipeline.results.gates import Gates, built_gate, gate_results, target_gate
from pipeline.results.taught import curves, distillation, search_of
from pipeline.stage import Stage
from pipeline.tasks.task import Task

State = Literal["measured", "built", "not_built"]

KINDS: tuple[type[Artifact], ...] = (Splits, Teacher, Student, Graph, Graphs, Engines, Measurements)


@final
class WriteReport(Stage):
    """`[gates]` is what it holds the measurements against. Closes every recipe that measures."""

    name: ClassVar[str] = "report"
    version: ClassVar[int] = 4
    needs: ClassVar[tuple[type[Artifact], ...]] = KINDS
    makes: ClassVar[type[Artifact]] = ReportFiles
    tools: ClassVar[tuple[str, ...]] = ("edgestill", "jinja2")

    names_recipe: ClassVar[bool] = True

    gates: Gates = Gates()

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        from pipeline.reporting.document import write_json
        from pipeline.reporting.html import write_html
        from pipeline.reporting.markdown import write_markdown

        report = self._report(inputs, context)
        write_json(report, target / "report.json")
        write_html(report, target / "report.html")
        write_markdown(report, target / "report.md")
        context.say(f"report: {report.verdict.replace('_', ' ')}")

    def _report(self, inputs: Artifacts, context: Context) -> Report:
        measured = inputs[Measurements].json("measurements.json")
        engines = tuple(_engines(inputs[Engines], measured))
        sample = _sample(inputs[Splits], context.task)
        search = search_of(inputs[Student])
        gates = gate_results(self.gates, engines, sample)
        if search is not None:
            gates = (target_gate(search), *gates)
        gates = (*built_gate(engines), *budget_gates(inputs[Graphs]), *gates)
        verdict, reasons = verdict_from_gates(gates)
        manifests = [read_manifest(inputs[kind].folder) for kind in KINDS]
        versions = {name: found for manifest in manifests for name, found in manifest.versions.items()}
        return Report(
            name=context.name,
            task=context.task.name,
            metric=context.task.metric,
            verdict=verdict,
            reasons=reasons,
            interval=measured["interval"],
            sample=sample,
            test_samples=measured["test_samples"],
            chain=tuple(_chain(inputs, measured)),
            engines=engines,
            gates=gates,
            findings=(
                *(Finding(**each) for kind in (Splits, Graphs) for each in inputs[kind].json(FINDINGS)),
                *teacher_findings(inputs[Teacher].json("metrics.json")),
                *accuracy_findings(measured, measured["chance"]),
                *timing_findings(measured),
            ),
            distillation=distillation(inputs[Student]),
            curves=(*curves(inputs[Teacher]), *curves(inputs[Student])),
            search=search,
            layers=layers_of(inputs[Graphs]),
            stages=tuple(
                StageResult(
                    name=each.stage, key=each.key, seconds=each.seconds, peak_memory_bytes=each.peak_memory_bytes
                )
                for each in manifests
            ),
            versions={"edgestill": version("edgestill"), **versions},
            machine=measured["machine"],
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            command=context.command,
            seed=context.seed,
        )


def _chain(inputs: Artifacts, measured: Mapping[str, Any]) -> Iterator[ChainStep]:
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


def _engines(artifact: Engines, measured: Mapping[str, Any]) -> Iterator[EngineResult]:
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
            parity="" if record.parity is None or record.parity.state == "not_run" else record.parity.sentence(),
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
        gpu=_gpu_run(entry),
    )


def _gpu_run(entry: Mapping[str, Any]) -> GpuRun | None:
    conditions, phases = entry["conditions"], entry.get("phases", {})
    if not any(conditions.values()):
        return None
    return GpuRun(**conditions, **{name: phases.get(name) for name in ("h2d_ms", "gpu_compute_ms", "d2h_ms")})


def _sample(splits: Splits, task: Task) -> str:
    if task.name.startswith(("sequence", "token")):
        return "sequence"
    return "image" if len(splits.json("inputs.json")) == 1 else "sample"


def _estimate(interval: Mapping[str, Any] | None) -> Estimate | None:
    return None if interval is None else Estimate(**interval)


def _size(artifact: Artifact, name: str) -> int:
    return artifact.path(name).stat().st_size
