"""The report's tables of what was really built, where it may run, and what in it costs time."""

from __future__ import annotations

from collections.abc import Iterator

from engines.base import QUANTIZED_PRECISIONS
from pipeline.reporting import formats, summary
from pipeline.reporting.audit_result import AuditPattern
from pipeline.reporting.result import EngineResult, Report
from pipeline.reporting.tables import Cell, Column, Table


def audit_table(report: Report) -> Table:
    """Every engine of the fleet, measured here or not."""
    titles = ("Size", "Kernels", "Activations")
    columns = (
        *(Column("Engine"), Column("Products")),
        *(Column(title, True) for title in titles),
        Column("May run on"),
    )
    rows = tuple(row for engine in report.engines for row in _audit_rows(engine))
    return Table("What was really built", columns, rows)


def _audit_rows(engine: EngineResult) -> Iterator[tuple[Cell, ...]]:
    audit = engine.audit
    if audit is None:
        return
    quantized = engine.precision in QUANTIZED_PRECISIONS or audit.int8_products > 0
    share = "" if audit.quantized_share is None else f"{audit.quantized_share:.2%} of the multiply-adds"
    floats = f"float: {summary.first_names(audit.float_products)}" if quantized and audit.float_products else ""
    bytes_note = _beside_fp16(audit.activation_bytes, audit.fp16_activation_bytes)
    yield (
        Cell(formats.engine(engine), note="; ".join(each for each in (engine.runtime, _takes(engine)) if each)),
        Cell(summary.audit_sentence(engine.precision, audit), note="; ".join(part for part in (share, floats) if part)),
        Cell(formats.bytes_(engine.bytes)),
        Cell(str(audit.kernels), note=_beside_fp16(audit.kernels, audit.fp16_kernels)),
        Cell(formats.bytes_(audit.activation_bytes), note=bytes_note),
        Cell(engine.runs_on or formats.MISSING),
    )


def _takes(engine: EngineResult) -> str:
    return f"takes {engine.takes}" if engine.takes else ""


def _beside_fp16(value: int | None, fp16: int | None) -> str:
    return "" if not value or not fp16 else f"{value / fp16:.2f} of FP16's"


def answers_table(report: Report) -> Table:
    """How the engines that ran here answer beside the graphs that they were built from."""
    columns = (Column("Engine"), Column("Its answers beside its graph's"))
    rows = tuple((Cell(formats.engine(engine)), Cell(engine.parity)) for engine in report.engines if engine.parity)
    return Table("Answers beside the graph's", columns, rows)


def patterns_table(report: Report) -> Table:
    """What speaks against the quantized engines, each with what would mend it."""
    columns = (Column("Engine"), Column("Kernels", True), Column("Activations", True), Column("What it means"))
    rows = tuple(row for engine in report.engines for row in _pattern_rows(engine))
    return Table("Why INT8 may not be faster", columns, rows)


def _pattern_rows(engine: EngineResult) -> Iterator[tuple[Cell, ...]]:
    if engine.audit is None:
        return
    name = formats.engine(engine)
    if engine.audit.remarks:
        missing = Cell(formats.MISSING)
        yield Cell(name, note="beside FP16"), missing, missing, Cell("; ".join(engine.audit.remarks))
    for each in engine.audit.patterns:
        yield (
            Cell(name, note=each.pattern),
            Cell(str(each.kernels)),
            Cell(formats.bytes_(each.activation_bytes)),
            Cell(_meaning(each), note=f"remedy: {each.remedy}"),
        )


def _meaning(pattern: AuditPattern) -> str:
    return f"{pattern.meaning}: {summary.first_names(pattern.nodes)}"
