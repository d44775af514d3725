"""What a linter found, in words: the text of each rule once, and the places under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from calibration.counting import counted

if TYPE_CHECKING:
    from calibration.lint import Finding

SHOWN = 10
"""Places of one rule; the rest is counted."""


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Indented, in the order in which the rules come first."""
    for group in _by_rule(findings):
        rule, places = group[0], [_place(finding) for finding in group]
        only = places[0] if len(places) == 1 else counted(len(places), "place")
        yield f"  {rule.severity} [{rule.rule}] {only}"
        yield f"    why: {rule.why}"
        yield f"    do: {rule.advice}"
        yield f"    source: {rule.source} ({rule.versions})"
        if len(places) > 1:
            yield from (f"    at {place}" for place in places[:SHOWN])
        if len(places) > SHOWN:
            yield f"    and {len(places) - SHOWN} more"


def refusal(findings: Iterable[Finding]) -> str:
    """One line, for an error."""
    return "; ".join(
        f"{_place(group[0])}{f', and {len(group) - 1} more of this' if len(group) > 1 else ''}; "
        f"{group[0].why}; {group[0].advice}"
        for group in _by_rule(findings)
    )


def _by_rule(findings: Iterable[Finding]) -> Iterable[list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.rule, []).append(finding)
    return groups.values()


def _place(finding: Finding) -> str:
    return f"{finding.node}: {finding.what}" if finding.node else finding.what
