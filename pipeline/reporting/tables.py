"""The report's tables as text, row by row; HTML and Markdown only set them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.reporting import formats, summary
from pipeline.reporting.result import ChainStep, EngineResult, GateResult, Latency, Report


@dataclass(frozen=True)
class Cell:
    text: str
    note: str = ""
    """A second line, less important."""
    state: str = ""
    """A key of `summary.GLYPHS`; the text says the same in words."""
    span: int = 1


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """The first cell of a row names it; a row's spans add up to the number of columns."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def gates_table(report: Report) -> Table:
    columns = (Column("Gate"), Column("Subject"), Column("Asked", True), Column("Found", True), Column("Result"))
    return Table("Gates", columns, tuple(_gate_row(gate) for gate in report.gates))


def _gate_row(gate: GateResult) -> tuple[Cell, ...]:
    found, limit = formats.gate_pair(gate.name, gate.value, gate.limit)
    return (
        Cell(gate.name),
        Cell(gate.subject),
        Cell(f"{gate.sense} {limit}"),
        Cell(found),
        Cell(gate.state, note=gate.detail, state=gate.state),
    )


def chain_table(report: Report) -> Table:
    titles = ("Parameters", "Size", formats.heading(report.metric))
    columns = (Column("Step"), *(Column(title, True) for title in titles))
    return Table("Chain", columns, tuple(_chain_row(step) for step in report.chain))


def _chain_row(step: ChainStep) -> tuple[Cell, ...]:
    accuracy = formats.percent_estimate(step.accuracy) if step.accuracy else "not measured"
    return (
        Cell(step.label, note=step.note),
        Cell(formats.count(step.parameters)),
        Cell(formats.bytes_(step.bytes)),
        Cell(accuracy),
    )


def engines_table(report: Report) -> Table:
    batches = sorted({latency.batch_size for engine in report.engines for latency in engine.latency})
    columns = (
        Column("Engine"),
        Column("State"),
        Column("Size", True),
        Column(formats.heading(report.metric), True),
        *(Column(f"p50, batch {batch}", True) for batch in batches),
        Column("Peak memory", True),
    )
    return Table("Engines", columns, tuple(_engine_row(engine, batches) for engine in report.engines))


def _engine_row(engine: EngineResult, batches: list[int]) -> tuple[Cell, ...]:
    name = Cell(formats.engine(engine), note=engine.runtime + (", optional target" if engine.optional else ""))
    size = Cell(formats.bytes_(engine.bytes))
    measured_nothing = engine.accuracy is None and not engine.latency and engine.peak_memory_bytes is None
    if measured_nothing:
        state = Cell(summary.STATES[engine.state], state=engine.state)
        return name, state, size, Cell(engine.reason or "nothing was measured", span=len(batches) + 2)
    timed = {latency.batch_size: latency for latency in engine.latency}
    return (
        name,
        Cell(summary.STATES[engine.state], note=engine.reason, state=engine.state),
        size,
        _accuracy_cell(engine),
        *(_latency_cell(timed.get(batch)) for batch in batches),
        Cell(formats.bytes_(engine.peak_memory_bytes)),
    )


def _accuracy_cell(engine: EngineResult) -> Cell:
    if engine.accuracy is None:
        return Cell(formats.MISSING)
    return Cell(formats.percent(engine.accuracy.value), note=formats.percent_interval(engine.accuracy))


def _latency_cell(latency: Latency | None) -> Cell:
    if latency is None:
        return Cell(formats.MISSING)
    return Cell(formats.milliseconds(latency.p50_ms), note=latency.versus_fp32 or "")


def latency_table(report: Report) -> Table:
    titles = ("p50 [95 %], ms", "p90", "p99", "CV", "Calls")
    columns = (Column("Batch, engine"), *(Column(title, True) for title in titles), Column("p50 over FP32's"))
    timed = [(engine, latency) for engine in report.engines for latency in engine.latency]
    timed.sort(key=lambda pair: pair[1].batch_size)
    return Table("Latency", columns, tuple(_latency_row(engine, latency) for engine, latency in timed))


def _latency_row(engine: EngineResult, latency: Latency) -> tuple[Cell, ...]:
    p50, low, high = (formats.significant(v) for v in (latency.p50_ms, latency.p50_low_ms, latency.p50_high_ms))
    p90, p99 = (
        "too few calls" if value is None else formats.significant(value) for value in (latency.p90_ms, latency.p99_ms)
    )
    return (
        Cell(f"{latency.batch_size}, {formats.engine(engine)}"),
        Cell(f"{p50} [{low}, {high}]"),
        Cell(p90),
        Cell(p99),
        Cell(f"{latency.cv * 100:.1f} %"),
        Cell(str(latency.samples)),
        _against_fp32(latency),
    )


def _against_fp32(latency: Latency) -> Cell:
    if latency.ratio_to_fp32 is None:
        return Cell(latency.versus_fp32 or formats.MISSING, state=latency.versus_fp32 or "")
    judged = latency.versus_fp32 or "not judged"
    return Cell(f"{formats.ratio_estimate(latency.ratio_to_fp32)} {judged}", state=latency.versus_fp32 or "")


def stages_table(report: Report) -> Table:
    columns = (Column("Stage"), Column("Key"), Column("Time", True), Column("Peak memory", True))
    rows = tuple(
        (
            Cell(stage.name),
            Cell(stage.key[:12]),
            Cell(formats.seconds(stage.seconds)),
            Cell(formats.bytes_(stage.peak_memory_bytes)),
        )
        for stage in report.stages
    )
    return Table("Stages", columns, rows)


def files_table(report: Report) -> Table:
    columns = (Column("Engine file"), Column("Bytes", True), Column("SHA-256"))
    rows = tuple(
        (
            Cell(engine.file),
            Cell(formats.MISSING if engine.bytes is None else str(engine.bytes)),
            Cell(engine.sha256 or formats.MISSING),
        )
        for engine in report.engines
        if engine.file is not None
    )
    return Table("Files", columns, rows)


def versions_table(report: Report) -> Table:
    rows = tuple((Cell(name), Cell(version)) for name, version in sorted(report.versions.items()))
    return Table("Versions", (Column("Software"), Column("Version")), rows)


def machine_table(report: Report) -> Table:
    rows = tuple((Cell(name), Cell(value)) for name, value in flat("", report.machine))
    return Table("Machine", (Column("Property"), Column("Value")), rows)


def flat(prefix: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    """Nested properties as `cpu.model`; a list of plain values stays on one line."""
    if isinstance(value, dict):
        for key, child in sorted(value.items()):
            yield from flat(f"{prefix}.{key}" if prefix else key, child)
    elif isinstance(value, list):
        plain = not any(isinstance(item, (dict, list)) for item in value)
        yield prefix, (", ".join(map(word, value)) or "none") if plain else json.dumps(value, ensure_ascii=False)
    else:
        yield prefix, formats.bytes_(value) if prefix.endswith("_bytes") and isinstance(value, int) else word(value)


def word(value: JsonValue) -> str:
    if value is None:
        return "none"
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"
