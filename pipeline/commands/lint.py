"""`edgestill lint`: what a runtime would make of a Q/DQ graph or a calibration cache without saying so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.counting import counted
from calibration.errors import CalibrationError
from engines.files import sha256_of_file
from pipeline.commands.findings import finding_lines
from pipeline.commands.outcome import Outcome
from pipeline.errors import IntegrityError, NotAcceptable, RecipeError
from pipeline.files.onnx_file import loaded_graph
from pipeline.quantizing.settings import checked_families, resolved_family

if TYPE_CHECKING:
    import onnx
    from rich.console import Console

    from calibration.lint import Finding

_NEITHER = "is neither an ONNX graph nor a calibration cache of TensorRT; give one of them"


@dataclass(frozen=True)
class LintRequest:
    """What the command line asked for."""

    file: Path
    """A Q/DQ graph, or a calibration cache of TensorRT: its content says which."""
    families: tuple[str, ...] = ()
    """Of a graph."""
    strict: bool = False
    """Whether warnings count too."""
    model: Path | None = None
    """The graph of a cache."""
    tensorrt_version: str | None = None
    """Of the TensorRT that is to take a cache."""


def lint(request: LintRequest) -> Outcome:
    """Exit 1 with errors, or, where asked to be strict, with warnings."""
    from calibration.tensorrt_cache.lint import is_cache

    for path in (request.file, *([request.model] if request.model else [])):
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such file")
    if is_cache(request.file.read_bytes()[:4096]):
        if request.families:
            raise RecipeError(f"{request.file}: is a calibration cache, which no --family shapes; leave it out")
        return _outcome(request, {"cache": str(request.file)}, {"cache": _of_cache(request)})
    try:
        checked_families(request.families)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    model = _graph_of(request.file)
    if request.model or request.tensorrt_version:
        raise RecipeError(f"{request.file}: is no calibration cache; --model and --tensorrt-version are for one")
    return _outcome(request, {"model": str(request.file)}, _of_graph(request, model))


def _graph_of(file: Path) -> onnx.ModelProto:
    try:
        model = loaded_graph(file)
    except NotAcceptable as error:
        raise NotAcceptable(f"{file}: {_NEITHER}") from error
    if not model.graph.node:  # bytes that say nothing to ONNX are a graph of nothing
        raise NotAcceptable(f"{file}: {_NEITHER}")
    return model


def _of_graph(request: LintRequest, model: onnx.ModelProto) -> dict[str, tuple[Finding, ...]]:
    from calibration import lint as linter

    if not request.families:
        raise RecipeError(f"{request.file}: say with --family whose rules it is to keep")
    return {family: linter.lint(model, resolved_family(family)) for family in request.families}


def _of_cache(request: LintRequest) -> tuple[Finding, ...]:
    from calibration.tensorrt_cache.lint import lint_cache
    from calibration.tensorrt_cache.origin import loaded_origin
    from calibration.tensorrt_cache.subject import LintedGraph, Subject
    from calibration.tensorrt_cache.version import wanted_version

    try:
        wanted = wanted_version(request.tensorrt_version) if request.tensorrt_version else None
    except CalibrationError as error:
        raise RecipeError(str(error)) from error
    try:
        origin = loaded_origin(request.file)
    except CalibrationError as error:
        raise IntegrityError(str(error)) from error
    graph = LintedGraph(loaded_graph(request.model), sha256_of_file(request.model)) if request.model else None
    return lint_cache(Subject(request.file.read_bytes(), origin, graph, wanted))


def _outcome(request: LintRequest, document: dict[str, Any], found: dict[str, tuple[Finding, ...]]) -> Outcome:
    severities = {finding.severity for findings in found.values() for finding in findings}
    bad = "error" in severities or (request.strict and bool(severities))
    told = {name: [finding.to_json() for finding in findings] for name, findings in found.items()}
    document |= {"findings": told["cache"]} if "cache" in document else {"families": told}
    return Outcome(document, lambda console: _show(console, found), NotAcceptable.exit_code if bad else 0)


def _show(console: Console, found: dict[str, tuple[Finding, ...]]) -> None:
    for family, findings in found.items():
        errors = sum(finding.severity == "error" for finding in findings)
        warnings = len(findings) - errors
        console.print(f"{family}: {counted(errors, 'error')}, {counted(warnings, 'warning')}", markup=False)
        for line in finding_lines(findings):
            console.print(line, markup=False, soft_wrap=True)
