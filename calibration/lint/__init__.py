"""Q/DQ graphs that a runtime would take wrongly, or in float, without a word."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import onnx
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.external_data import check
from calibration.lint.cpu import CPU_RULES
from calibration.lint.every_family import ANY_RULES
from calibration.lint.graph import QdqGraph
from calibration.lint.rule import LintRule, Severity
from calibration.lint.tensorrt import TENSORRT_RULES
from calibration.placement.families import FAMILY

LINT_RULES: tuple[LintRule, ...] = (*ANY_RULES, *TENSORRT_RULES, *CPU_RULES)
"""To add one: a function that finds it and an entry of one of these tables."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one node."""

    rule: str
    severity: Severity
    """`error`: wrong numbers, or what the runtime refuses or never takes in INT8 as it stands. `warning`: float where
    INT8 was meant, or overhead."""
    node: str
    what: str
    why: str
    advice: str
    source: str
    versions: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def lint(model: ModelProto, family: str) -> tuple[Finding, ...]:
    """What the family's runtimes would make of the graph, errors first; empty where they take it as it is meant.

    Raises CalibrationError where the family is unknown.
    """
    if family not in FAMILY:
        raise CalibrationError(f"placement family {family!r} is unknown; choose from {', '.join(FAMILY)}")
    graph = QdqGraph(model)
    found = [
        Finding(rule.name, rule.severity, node, what, rule.why, rule.advice, rule.source, rule.versions)
        for rule in LINT_RULES
        if family in rule.families
        for node, what in rule.found(graph, family)
    ]
    if not any(finding.rule == "half-scale" for finding in found) and (problem := _why_invalid(model)) is not None:
        found.append(_invalid(problem))
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def _why_invalid(model: ModelProto) -> str | None:
    try:
        check(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).strip()
    return None


def _invalid(problem: str) -> Finding:
    return Finding(
        rule="invalid-onnx",
        severity="error",
        node="",
        what=problem,
        why="runtimes check less than the standard says, and differ in what they make of the rest",
        advice="write it again with a tool that checks its result",
        source="onnx.checker.check_model(full_check=True)",
        versions=f"onnx {onnx.__version__}",
    )
