"""One page that says whether to ship, and on what evidence."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, final

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
from pipeline.context import Context
from pipeline.files.manifest import read_manifest
from pipeline.reporting.result import Finding, Report, StageResult
from pipeline.reporting.verdict import verdict_from_gates
from pipeline.results.chain import chain
from pipeline.results.engine_results import engine_results
from pipeline.results.findings import accuracy_findings, teacher_findings, timing_findings
from pipeline.results.gates import Gates, built_gate, gate_results, target_gate
from pipeline.results.layer_results import budget_gates, layers_of, repairs_of
from pipeline.results.taught import curves, distillation, search_of
from pipeline.stage import Stage
from pipeline.tasks.task import Task

KINDS: tuple[type[Artifact], ...] = (Splits, Teacher, Student, Graph, Graphs, Engines, Measurements)


@final
class WriteReport(Stage):
    """`[gates]` is what it holds the measurements against. Closes every recipe that measures."""

    name: ClassVar[str] = "report"
    version: ClassVar[int] = 5
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
        engines = tuple(engine_results(inputs[Engines], measured))
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
            chain=tuple(chain(inputs, measured)),
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
            repairs=tuple(repairs_of(inputs[Graphs])),
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


def _sample(splits: Splits, task: Task) -> str:
    if task.name.startswith(("sequence", "token")):
        return "sequence"
    return "image" if len(splits.json("inputs.json")) == 1 else "sample"
