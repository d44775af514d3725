"""The report as GitHub Markdown, short enough for the summary of a CI job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.reporting import audit_tables, formats, layers, search, summary, tables, training
from pipeline.reporting.result import Report
from pipeline.reporting.tables import Cell, Table


def markdown_from_report(report: Report) -> str:
    blocks = [block for block in _blocks(report) if block]
    return "\n\n".join(blocks) + "\n"


def write_markdown(report: Report, path: Path) -> None:
    path.write_text(markdown_from_report(report), encoding="utf-8")


def _blocks(report: Report) -> Iterator[str]:
    yield f"# {summary.GLYPHS[report.verdict]} {summary.HEADLINES[report.verdict]}: {_escaped(report.name)}"
    yield " ".join(_escaped(reason) for reason in report.reasons)
    yield _escaped(summary.coverage(report))
    yield "\n".join(
        f"- **{_escaped(key.value)}** {_escaped(key.label)} ({_escaped(key.detail)})"
        for key in summary.key_figures(report)
    )
    yield from _section("Gates", _table(tables.gates_table(report)) or "No gate was set.")
    yield from _section("From teacher to engine", _table(tables.chain_table(report)))
    yield from _section("Training", _joined(_training(report)))
    yield from _section("Search", _joined(_search(report)))
    yield from _section("Layers in INT8", _joined(_layers(report)))
    yield from _section("Engines", _table(tables.engines_table(report)))
    yield _list(summary.unmeasured(report))
    yield from _section("Latency", _table(tables.latency_table(report)))
    yield from _section("What was really built", _table(audit_tables.audit_table(report)))
    yield from _section("Answers beside the graph's", _table(audit_tables.answers_table(report)))
    yield from _section("Why INT8 may not be faster", _table(audit_tables.patterns_table(report)))
    yield from _section(
        "Findings", _list(tuple(f"{one.severity}: {one.message}" for one in report.findings)) or "None."
    )
    yield from _section("Stages", _table(tables.stages_table(report)))
    yield from _section("To reproduce", _reproduction(report))
    yield _table(tables.files_table(report))
    yield from _section("Versions and machine", _table(tables.versions_table(report)))
    yield _table(tables.machine_table(report))
    interval = f", intervals: {_escaped(report.interval)}" if report.interval else ""
    yield f"{_escaped(summary.tested(report))}, {_escaped(report.task)}{interval}, {_escaped(report.created_utc)}"


def _training(report: Report) -> Iterator[str]:
    yield _table(training.loss_table(report))
    yield _table(training.curves_table(report))
    yield _table(training.distillation_table(report))


def _search(report: Report) -> Iterator[str]:
    yield _escaped(search.sentence(report))
    yield _table(search.search_table(report))
    yield _table(search.trials_table(report))
    yield search.trials_left_out(report)


def _layers(report: Report) -> Iterator[str]:
    for family in layers.families(report):
        yield f"**{_escaped(family.family)}** ({_escaped(family.judged_on)}, {family.samples} samples)"
        yield _escaped(layers.placed(family))
        yield _escaped(layers.sentence(family))
        yield _table(layers.placements_table(family))
        yield _table(layers.layers_table(family))
        yield layers.left_out(family)
    if report.repairs:
        yield _table(layers.repairs_table(report))


def _joined(blocks: Iterator[str]) -> str:
    return "\n\n".join(block for block in blocks if block)


def _section(title: str, body: str) -> Iterator[str]:
    if body:
        yield f"## {title}"
        yield body


def _reproduction(report: Report) -> str:
    seed = f" with seed {report.seed}" if report.seed is not None else ""
    command = summary.command(report).replace("`", "'")
    return f"`{' '.join(command.split())}`{seed} and the versions below. {' '.join(summary.REPRODUCTION)}"


def _list(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {_escaped(sentence)}" for sentence in sentences)


def _table(table: Table) -> str:
    """Empty where there are no rows."""
    if not table.rows:
        return ""
    head = [column.title for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    return "\n".join(_line(cells) for cells in (map(_escaped, head), rule, *map(_cells, table.rows)))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: tuple[Cell, ...]) -> Iterator[str]:
    for cell in row:
        if cell.span > 1:
            # Markdown has no spans: the words follow below the table, from `summary.unmeasured`.
            yield from [formats.MISSING] * cell.span
        else:
            glyph = f"{summary.GLYPHS[cell.state]} " if cell.state else ""
            interval = cell.note.startswith("[")
            note = cell.note if interval or not cell.note else f"({cell.note})"
            yield f"{glyph}{_escaped(f'{cell.text} {note}')}"


def _escaped(text: str) -> str:
    """Words that stay words: no cell ends, no line ends, no markup, no link."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|~])", r"\\\1", one_line).replace("](", "]\\(")
