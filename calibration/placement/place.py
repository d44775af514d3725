"""Where Q/DQ pairs go, per family of runtimes, and why each node is quantized or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.graph import Graph, subgraphs
from calibration.placement.cpu import place_cpu
from calibration.placement.cpu_speed import CpuSpeed
from calibration.placement.dla import place_dla
from calibration.placement.families import FAMILY
from calibration.placement.rules import RULES
from calibration.placement.rules.every_family import CONTROL_FLOW, SPARED, UNKNOWN_OPERATOR
from calibration.placement.rules.rule import Rule, Verdict
from calibration.placement.sites import Activation, Decision, Sites, Weight
from calibration.placement.tensorrt import place_tensorrt

__all__ = ["Activation", "Decision", "Placement", "Weight", "place"]


@dataclass(frozen=True)
class Placement:
    """What a family gets in INT8: one decision per node, and the tensors that follow from the decisions."""

    family: str
    decisions: tuple[Decision, ...]
    activations: tuple[Activation, ...]
    weights: tuple[Weight, ...]
    speed: CpuSpeed | None = None
    """Of families that run on a CPU: what decided between 8 bits and float."""

    @property
    def is_float(self) -> bool:
        """Whether all stays in float, since nothing else would be faster."""
        return self.speed is not None and self.speed.nothing_pays

    @property
    def tensors(self) -> frozenset[str]:
        """The activations that get a Q/DQ pair."""
        return frozenset(activation.tensor for activation in self.activations)

    @property
    def quantized_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that are meant to run in INT8."""
        return tuple(decision.node for decision in self.decisions if decision.quantized)

    @property
    def spared(self) -> Mapping[str, str]:
        """Nodes that were to stay in float whatever the rules say, each with its reason."""
        return {decision.node: decision.reason for decision in self.decisions if decision.rule == SPARED.name}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Those that decided a node, in the order of the graph."""
        return tuple(RULES[name] for name in dict.fromkeys(decision.rule for decision in self.decisions))

    def to_json(self) -> dict[str, Any]:
        """A document for `json.dumps`."""
        return {"schema_version": 1, **asdict(self), "rules": {rule.name: asdict(rule) for rule in self.rules}}


def place(model: ModelProto, family: str, spared: Mapping[str, str] = MappingProxyType({})) -> Placement:
    """Decides for each node of a prepared model whether the family runs it in INT8.

    `spared` are nodes that stay in float whatever the rules say of them, each with its reason. Raises CalibrationError
    where the family or a spared node is unknown.
    """
    if family not in FAMILY:
        raise CalibrationError(f"placement family {family!r} is unknown; choose from {', '.join(FAMILY)}")
    graph = Graph(model)
    if unknown := spared.keys() - {node.name for node in graph.nodes}:
        raise CalibrationError(f"node {min(unknown)!r} is to stay in float, but the graph has no node of this name")
    sites = Sites({name: (False, SPARED.says(why=reason)) for name, reason in spared.items()})
    _leave_what_is_not_understood(graph, sites)
    speed = None
    if FAMILY[family].rules == "cpu":
        speed = place_cpu(graph, sites, FAMILY[family], may_leave_all=not spared)
    elif FAMILY[family].rules == "dla":
        place_dla(graph, sites)
    else:
        place_tensorrt(graph, sites, FAMILY[family])
    return Placement(
        family=family,
        decisions=_decisions(graph, sites.verdicts),
        activations=tuple(sites.activations[name] for name in _in_graph_order(graph, sites)),
        weights=tuple(sites.weights),
        speed=speed,
    )


def _leave_what_is_not_understood(graph: Graph, sites: Sites) -> None:
    for node in graph.nodes:
        if sites.is_decided(node):
            continue
        if any(subgraphs(node)):
            sites.refuse(node, CONTROL_FLOW.says())
        elif node.domain not in ("", "ai.onnx"):
            sites.refuse(node, UNKNOWN_OPERATOR.says(domain=node.domain, operator=node.op_type))


def _decisions(graph: Graph, verdicts: Mapping[str, tuple[bool, Verdict]]) -> tuple[Decision, ...]:
    found = ((node, *verdicts[node.name]) for node in graph.nodes)
    return tuple(Decision(node.name, node.op_type, yes, why.reason, why.rule) for node, yes, why in found)


def _in_graph_order(graph: Graph, sites: Sites) -> Sequence[str]:
    written = (name for node in graph.nodes for name in node.output)
    return [name for name in (*graph.inputs, *written) if name in sites.activations]
