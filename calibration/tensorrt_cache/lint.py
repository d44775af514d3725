"""Calibration caches that a TensorRT would ignore, refuse, or take wrongly without a word."""

from __future__ import annotations

import re

from calibration.lint import Finding
from calibration.tensorrt_cache.graph_rules import GRAPH_RULES
from calibration.tensorrt_cache.rules import FILE_RULES
from calibration.tensorrt_cache.subject import CacheRule, Subject

CACHE_RULES: tuple[CacheRule, ...] = (*FILE_RULES, *GRAPH_RULES)

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
    found = [
        Finding(rule.name, rule.severity, where, what, rule.why, rule.advice, rule.source, _VERSIONS)
        for rule in CACHE_RULES
        for where, what in rule.finds(subject)
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))
