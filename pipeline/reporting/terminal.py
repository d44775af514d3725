"""What a run ends with on a terminal: verdict, chain, engines, gates, and where the report is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.reporting import formats, layers, search, summary, tables, training
from pipeline.reporting.result import EngineResult, Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {
    "ship": "bold green",
    "do_not_ship": "bold red",
    "inconclusive": "bold yellow",
    "passed": "green",
    "failed": "bold red",
    "error": "bold red",
    "warning": "yellow",
}


def summary_from_report(report: Report, html: Path | None = None) -> RenderableType:
    """A renderable that fits 80 columns; the console that it is given to decides on colour."""
    from rich.console import Group
    from rich.padding import Padding

    parts = [part for part in _parts(report, html) if part is not None]
    return Group(*(Padding(part, (1, 0, 0, 0)) for part in parts))


def _parts(report: Report, html: Path | None) -> Iterator[RenderableType | None]:
    from rich.text import Text

    # Text, never str: a name such as `[red]` is a name, not a style.
    yield _verdict(report)
    yield _chain(report)
    yield _training(report)
    yield _engines(report)
    if placed := [
        f"{family.family}: {layers.placed(family)}" for family in layers.families(report) if family.int8_share
    ]:
        yield Text("\n".join(placed), style="dim")
    if sentences := summary.unmeasured(report):
        yield Text("\n".join(sentences), style="dim")
    yield _gates(report)
    if findings := [finding for finding in report.findings if finding.severity != "note"]:
        yield Text("\n").join(
            Text.assemble((finding.severity, STYLES[finding.severity]), f": {finding.message}") for finding in findings
        )
    if html is not None:
        yield Text(f"Report: {html}", overflow="fold")


def _verdict(report: Report) -> Text:
    from rich.text import Text

    headline = f"{summary.GLYPHS[report.verdict]} {summary.HEADLINES[report.verdict]}"
    text = Text.assemble((headline, STYLES[report.verdict]), f"  {report.name}\n", "\n".join(report.reasons))
    return text.append(f"\n{covered}", style="dim") if (covered := summary.coverage(report)) else text


def _chain(report: Report) -> Table | None:
    steps = (
        (
            step.label,
            formats.count(step.parameters),
            formats.bytes_(step.bytes),
            formats.percent_estimate(step.accuracy),
        )
        for step in report.chain
    )
    return _table(("Step", "Parameters", "Size", formats.heading(report.metric)), steps)


def _training(report: Report) -> Text | None:
    from rich.text import Text

    terms = report.distillation.terms if report.distillation else ()
    sentences = [f"Loss: {training.loss_in_words(terms)}"] if terms else []
    sentences += [found] if (found := search.sentence(report)) else []
    return Text("\n".join(sentences)) if sentences else None


def _engines(report: Report) -> Table | None:
    batches = sorted({latency.batch_size for engine in report.engines for latency in engine.latency})
    at = f"p50, ms at batch {' / '.join(map(str, batches))}" if batches else "p50"
    rows = (_engine_row(engine, batches) for engine in report.engines if engine.state != "not_built")
    return _table(("Engine", "Size", formats.heading(report.metric), at), rows)


def _engine_row(engine: EngineResult, batches: list[int]) -> tuple[str, str, str, str]:
    timed = {latency.batch_size: formats.significant(latency.p50_ms) for latency in engine.latency}
    return (
        formats.engine(engine),
        formats.bytes_(engine.bytes),
        formats.percent_estimate(engine.accuracy),
        " / ".join(timed.get(batch, formats.MISSING) for batch in batches) if timed else formats.MISSING,
    )


def _gates(report: Report) -> Table | None:
    table = tables.gates_table(report)
    rows = ((*(cell.text for cell in row[:-1]), row[-1].state) for row in table.rows)
    return _table(tuple(column.title for column in table.columns), rows, numeric=(2, 3))


def _table(
    titles: tuple[str, ...], rows: Iterable[tuple[str, ...]], numeric: tuple[int, ...] = (1, 2, 3)
) -> Table | None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for index, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if index in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(text) for text in row))
    return table if table.row_count else None


def _cell(text: str) -> Text:
    from rich.text import Text

    glyph = f"{summary.GLYPHS[text]} " if text in ("passed", "failed", "inconclusive") else ""
    return Text(f"{glyph}{text}", style=STYLES.get(text, "") if glyph else "")
