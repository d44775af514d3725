"""A Q/DQ graph whose float part is in half precision: what runs beside INT8 or FP8 products on a GPU."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from calibration.external_data import inferred
from calibration.float16 import float32_nodes, in_16_bits, why_too_large
from calibration.float_types import HALF
from calibration.graph import Graph
from calibration.newer_opset import at_opset
from calibration.placement.place import Placement
from calibration.prepare import opset_of
from calibration.qdq import quantize
from calibration.ranges import Ranges
from calibration.runtime_types import with_types_of

HALF_SCALES = 19
"""The opset from which QuantizeLinear and DequantizeLinear take half precision."""

FP8_OPSET = 19
"""The opset that FP8 begins with."""

_WORST_SCALE_ERROR = 2.0**-9
"""Relative error of a scale in half precision, which small ones lose to subnormal numbers."""


def with_float16_rest(quantized: ModelProto, model: ModelProto, extremes: Ranges) -> tuple[ModelProto, dict[str, str]]:
    """The Q/DQ graph of a prepared model with its float part in half precision, and what of it stays FP32 and why.

    From opset 19 on scales are in half precision where it holds them; before, and where it does not, a pair stays in
    float32 between casts. `extremes` are the exact extremes of the prepared model (method `minmax`).
    """
    found = with_types_of(inferred(quantized, check_type=True, strict_mode=True, data_prop=True), model)
    kept = float32_nodes(model, extremes)
    pairs = _float32_pairs(Graph(found), opset_of(quantized), Graph(model), extremes)
    return in_16_bits(found, {**pairs, **kept}, HALF), kept


def fp8_graph(
    model: ModelProto, ranges: Ranges, placement: Placement, extremes: Ranges
) -> tuple[ModelProto, dict[str, str]]:
    """The graph with FP8 E4M3 where the placement has INT8, the rest in half precision, and what stays FP32.

    Raises GraphRefused where the graph does not convert to opset 19, which FP8 begins with.
    """
    raised = at_opset(model, FP8_OPSET)
    return with_float16_rest(quantize(raised, ranges, placement, "fp8"), raised, extremes)


def _float32_pairs(graph: Graph, opset: int, before: Graph, extremes: Ranges) -> dict[str, str]:
    found = {}
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            reason = _why_float32(graph, node, opset, before, extremes)
            if reason is not None:
                found[node.name] = reason
    return found


def _why_float32(graph: Graph, node: NodeProto, opset: int, before: Graph, extremes: Ranges) -> str | None:
    if opset < HALF_SCALES:
        return f"{node.op_type} has no half precision in opset {opset}"
    scale = graph.constant(node.input[1]).astype(np.float64)
    half = scale.astype(np.float16).astype(np.float64)
    if (np.abs(half - scale) > _WORST_SCALE_ERROR * scale).any():
        return f"half precision does not hold its scale {node.input[1]!r}"
    producer = graph.producer.get(node.input[0])
    tensor = node.input[0] if node.op_type == "QuantizeLinear" or producer is None else producer.input[0]
    return why_too_large(before, tensor, extremes)
