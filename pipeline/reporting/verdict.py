"""What the gates together say."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reporting.formats import gate_pair
from pipeline.reporting.result import GateResult, Verdict


def verdict_from_gates(gates: Sequence[GateResult]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict, and why: one failed gate outweighs everything, one undecided gate outweighs those that passed.

    Without a gate nothing says what is good enough, and a collapsed network would look as shippable as a sound one:
    that is inconclusive, not a pass.
    """
    failed = [gate for gate in gates if gate.state == "failed"]
    undecided = [gate for gate in gates if gate.state == "inconclusive"]
    if failed:
        return "do_not_ship", tuple(_reason(gate) for gate in (*failed, *undecided))
    if undecided:
        return "inconclusive", tuple(_reason(gate) for gate in undecided)
    if not gates:
        return "inconclusive", ("No gate was set, so nothing says what is good enough: set limits under [gates].",)
    passed = {1: "The one gate passed.", 2: "Both gates passed."}
    return "ship", (passed.get(len(gates), f"All {len(gates)} gates passed."),)


def _reason(gate: GateResult) -> str:
    found, limit = gate_pair(gate.name, gate.value, gate.limit)
    detail = f" ({gate.detail.rstrip('.')})" if gate.detail else ""
    asked = f"{gate.sense} {limit} was asked"
    if gate.state == "failed" and gate.value is not None:
        return f"{gate.name} of {gate.subject} is {found}, {asked}{detail}."
    outcome = "failed" if gate.state == "failed" else "could not be decided"
    return f"{gate.name} of {gate.subject} {outcome}: {asked}{detail}."
