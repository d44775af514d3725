"""Calibration caches that a TensorRT would ignore, refuse, or take wrongly without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from calibration.lint import Finding
from calibration.tensorrt_cache.graph_rules import GRAPH_RULES
from calibration.tensorrt_cache.rules import FILE_RULES
from calibration.tensorrt_cache.subject import CacheRule, Subject

CACHE_RULES: tuple[CacheRule, ...] = (*FILE_RULES, *GRAPH_RULES)

_OF_TENSORRT_ALONE = frozenset(
    {"unreadable-line", "other-version", "other-calibrator", "no-cache-any-more", "windows-line-ends"}
    | {"unmeasured-graph", "missing-tensor", "missing-elsewhere"}
)
"""What matters to a TensorRT that takes the file beside a float graph, and not to a Q/DQ graph with its scales."""

_VERSIONS = "TensorRT 8 to 10"
_TEXT_BYTES = 1024
_ENTRY = re.compile(rb"^.+: [0-9a-fA-F]{1,8}\r?$", re.MULTILINE)


def is_cache(data: bytes) -> bool:
    """Whether bytes are meant as a calibration cache: its first line, or text with a line `name: digits`."""
    head = data[:_TEXT_BYTES]
    is_text = all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    return head.startswith(b"TRT-") or (is_text and _ENTRY.search(head) is not None)


def lint_cache(subject: Subject) -> tuple[Finding, ...]:
    """What a TensorRT would make of the cache, errors first; empty where it takes it as it is meant."""
    return _errors_first(_found(CACHE_RULES, subject))


def lint_scales(subject: Subject) -> tuple[Finding, ...]:
    """Of `lint_cache` what a Q/DQ graph inherits, of a cache that could be read: the scales of its own tensors.

    What the graph needs and misses its placement says.
    """
    rules = [rule for rule in CACHE_RULES if rule.name not in _OF_TENSORRT_ALONE]
    of_file = [rule for rule in rules if rule in FILE_RULES]
    of_graph = [rule for rule in rules if rule in GRAPH_RULES]
    own = replace(subject, data=_of_graph_alone(subject))
    return _errors_first([*_found(of_file, own), *_found(of_graph, subject)])


def _found(rules: Iterable[CacheRule], subject: Subject) -> list[Finding]:
    return [
        Finding(rule.name, rule.severity, where, what, rule.why, rule.advice, rule.source, _VERSIONS)
        for rule in rules
        for where, what in rule.finds(subject)
    ]


def _errors_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def _of_graph_alone(subject: Subject) -> bytes:
    """The cache with an empty line for each tensor that the graph does not have."""
    lines = subject.data.split(b"\n")
    for entry in subject.parsed.entries:
        if subject.graph is not None and entry.tensor not in subject.graph.names:
            lines[entry.line - 1] = b""
    return b"\n".join(lines)
