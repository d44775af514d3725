"""What a rule looks at, what it says, who says so, and for which versions."""

from __future__ import annotations

from dataclasses import dataclass

OPTIMIZED = "the graph that onnxruntime 1.32 optimizes, read: tests/calibration/placement/test_placement.py"
"""A source of rules."""


@dataclass(frozen=True)
class Rule:
    """Why a node is quantized or not, as data."""

    name: str
    pattern: str
    """What it looks at."""
    reason: str
    """What is said of a node, with the details of the node in braces."""
    source: str
    versions: str

    def says(self, **details: object) -> Verdict:
        """The rule, applied to one node."""
        return Verdict(self.name, self.reason.format(**details))


@dataclass(frozen=True)
class Verdict:
    """What a rule says of one node."""

    rule: str
    reason: str
