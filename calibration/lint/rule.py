"""What a rule of the linter says, as data beside the function that finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from calibration.lint.graph import QdqGraph
from calibration.placement.families import FAMILY

Severity = Literal["error", "warning"]
Found = Iterator[tuple[str, str]]
"""(node, what is wrong with it)."""

ANY: tuple[str, ...] = tuple(FAMILY)
TENSORRT: tuple[str, ...] = tuple(name for name, family in FAMILY.items() if family.rules != "cpu")
CPU: tuple[str, ...] = tuple(name for name, family in FAMILY.items() if family.rules == "cpu")

BUILT = "built with TensorRT-RTX 1.7, its realized layers read: tests/calibration/lint/test_lint.py"
OPTIMIZED = "the graph that onnxruntime 1.32 optimizes, read: tests/calibration/lint/test_lint.py"
RTX_VERSIONS = "TensorRT-RTX 1.7"
ORT_VERSIONS = "onnxruntime 1.23 and later"


@dataclass(frozen=True)
class LintRule:
    """`finds` looks, the rest is what a person is told."""

    name: str
    severity: Severity
    families: tuple[str, ...]
    why: str
    advice: str
    source: str
    versions: str
    finds: Callable[[QdqGraph], Found]
    finds_on_dla: Callable[[QdqGraph], Found] | None = None
    """In place of `finds`, where the accelerator's layers make a difference."""

    def found(self, graph: QdqGraph, family: str) -> Found:
        """In a graph for one of its families."""
        on_dla = self.finds_on_dla if FAMILY[family].rules == "dla" else None
        return (on_dla or self.finds)(graph)
