"""The BF16 graph: bfloat16 inside, float32 at inputs and outputs, and where ONNX or TensorRT has no bfloat16."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from calibration.float16 import in_16_bits, why_not_of_type
from calibration.float_types import BFLOAT16
from calibration.graph import Graph
from calibration.newer_opset import at_opset
from calibration.prepare import opset_of

BFLOAT16_OPSET = 22
"""The opset from which convolutions and pools take it; products and sums took it before."""

NOT_OF_TENSORRT = ("ConvTranspose", "HardSwish", "LpNormalization", "Mish")
"""What ONNX has in bfloat16 and TensorRT does not: its parser refuses them, its builder the first (tried with 1.7 of
TensorRT-RTX, as were 70 others, which it takes)."""


def bfloat16_from_float32(model: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """A prepared model in bfloat16, and the nodes of it that stay float32, each with its reason.

    It reaches as far as float32, so no measured range keeps a node out. Raises GraphRefused where the graph does not
    convert to opset 22.
    """
    raised = at_opset(model, BFLOAT16_OPSET)
    graph, opset = Graph(raised), opset_of(raised)
    found = ((node.name, _why_float32(graph, node, opset)) for node in graph.nodes)
    kept = {name: reason for name, reason in found if reason is not None}
    return in_16_bits(raised, kept, BFLOAT16), kept


def _why_float32(graph: Graph, node: NodeProto, opset: int) -> str | None:
    if node.op_type in NOT_OF_TENSORRT:
        return f"TensorRT has no {node.op_type} in bfloat16"
    return why_not_of_type(graph, node, opset, BFLOAT16)
