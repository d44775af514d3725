"""The BF16 graph: bfloat16 inside, float32 at its inputs and outputs, float32 where ONNX has no bfloat16."""

from __future__ import annotations

from onnx import ModelProto

from calibration.float16 import in_16_bits, why_not_of_type
from calibration.float_types import BFLOAT16
from calibration.graph import Graph
from calibration.newer_opset import at_opset
from calibration.prepare import opset_of

BFLOAT16_OPSET = 22
"""The opset from which convolutions and pools take it; products and sums took it before."""


def bfloat16_from_float32(model: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """A prepared model in bfloat16, and the nodes of it that stay float32, each with its reason.

    It reaches as far as float32, so no measured range keeps a node out. Raises GraphRefused where the graph does not
    convert to opset 22.
    """
    raised = at_opset(model, BFLOAT16_OPSET)
    graph, opset = Graph(raised), opset_of(raised)
    found = ((node.name, why_not_of_type(graph, node, opset, BFLOAT16)) for node in graph.nodes)
    kept = {name: reason for name, reason in found if reason is not None}
    return in_16_bits(raised, kept, BFLOAT16), kept
