"""The report as one HTML file that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from pathlib import Path

from pipeline.reporting import audit_tables, figures, formats, layers, search, summary, tables, training
from pipeline.reporting.result import Report

TEMPLATE = "report.html"


def html_from_report(report: Report) -> str:
    """The whole page; what the report holds is text in it, never markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        report=report,
        headline=summary.HEADLINES[report.verdict],
        glyphs=summary.GLYPHS,
        key_figures=summary.key_figures(report),
        coverage=summary.coverage(report),
        command=summary.command(report),
        reproduction=summary.REPRODUCTION,
        tested=summary.tested(report),
        metric=formats.heading(report.metric),
        figures=figures,
        layers=layers,
        training=training,
        search=search,
        tables=tables,
        audit_tables=audit_tables,
    )


def write_html(report: Report, path: Path) -> None:
    path.write_text(html_from_report(report), encoding="utf-8")
