"""How much of the layers' time stays in float: from measured latencies where a user gives them, else from estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.quantizing.sensitivity.budget import Latencies
from pipeline.quantizing.sensitivity.layer_costs import Spared, Subject
from pipeline.quantizing.settings import resolved_family


@dataclass(frozen=True)
class FloatTime:
    """Of one placement: convolutions and products alone, without Q, DQ and what stands between them."""

    basis: Literal["estimated", "measured"]
    """`estimated`: of one sample on one thread, from the costs per operator that decide a CPU's placement."""
    float_ms: float
    """Of the layers that stay in float."""
    layers_ms: float
    """Of all layers, each as it is placed."""

    @property
    def share(self) -> float:
        """In float."""
        return self.float_ms / self.layers_ms if self.layers_ms else 0.0

    def in_words(self) -> str:
        """`layers in float take an estimated 31 % of the time of all layers`."""
        how = "an estimated" if self.basis == "estimated" else "a measured"
        return f"layers in float take {how} {self.share:.1%} of the time of all layers"

    def to_json(self) -> dict[str, Any]:
        """A part of sensitivity.json."""
        return {"basis": self.basis, "share": self.share, "float_ms": self.float_ms, "layers_ms": self.layers_ms}


def float_time(subject: Subject, spared: Spared, latencies: Latencies | None) -> FloatTime | None:
    """With these layers in float beside those that the family never quantizes; None where no time is known."""
    nodes = [layer.node for layer in subject.layers]
    found = _times_ms(subject, nodes, latencies)
    if found is None:
        return None
    basis, times = found
    in_int8 = {layer.node for layer in subject.candidates} - spared
    float_ms = sum(times[node][0] for node in nodes if node not in in_int8)
    return FloatTime(basis, float_ms, float_ms + sum(times[node][1] for node in nodes if node in in_int8))


def _times_ms(
    subject: Subject, nodes: list[str], latencies: Latencies | None
) -> tuple[Literal["estimated", "measured"], Latencies] | None:
    """(in float, in INT8) by node; latencies that lack a layer say nothing of a share."""
    from calibration.placement.layer_times import estimated_times_us

    if latencies is not None and all(node in latencies for node in nodes):
        return "measured", latencies
    estimated = estimated_times_us(subject.model, resolved_family(subject.family), nodes)
    if estimated is None:
        return None
    return "estimated", {node: (in_float / 1e3, in_8_bits / 1e3) for node, (in_float, in_8_bits) in estimated.items()}
