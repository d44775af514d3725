"""`edgestill lint`: what a runtime would make of a Q/DQ graph without saying so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import NotAcceptable, RecipeError
from pipeline.outcome import Outcome
from pipeline.quantization import loaded_graph
from pipeline.quantization_settings import checked_families, resolved_family

if TYPE_CHECKING:
    from rich.console import Console

    from calibration.lint import Finding


@dataclass(frozen=True)
class LintRequest:
    """What the command line asked for."""

    model: Path
    families: tuple[str, ...]
    strict: bool = False
    """Whether warnings count too."""


def lint(request: LintRequest) -> Outcome:
    """Exit 1 with errors, or, where asked to be strict, with warnings."""
    from calibration import lint as linter

    try:
        checked_families(request.families)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not request.model.is_file():
        raise RecipeError(f"{request.model}: there is no such file")
    model = loaded_graph(request.model)
    found = {family: linter.lint(model, resolved_family(family)) for family in request.families}
    severities = {finding.severity for findings in found.values() for finding in findings}
    bad = "error" in severities or (request.strict and bool(severities))
    document = {
        "model": str(request.model),
        "families": {family: [finding.to_json() for finding in findings] for family, findings in found.items()},
    }
    return Outcome(document, lambda console: _show(console, found), NotAcceptable.exit_code if bad else 0)


def _show(console: Console, found: dict[str, tuple[Finding, ...]]) -> None:
    for family, findings in found.items():
        errors = sum(finding.severity == "error" for finding in findings)
        console.print(f"{family}: {_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}", markup=False)
        for finding in findings:
            console.print(f"  {_lines(finding)}", markup=False, soft_wrap=True)


def _lines(finding: Finding) -> str:
    at = f"{finding.node}: " if finding.node else ""
    return (
        f"{finding.severity} [{finding.rule}] {at}{finding.what}\n"
        f"    why: {finding.why}\n    do: {finding.advice}\n    source: {finding.source} ({finding.versions})"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
