"""Tensors that cannot hold NaN while those before them are finite: a summary need not look for it there."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, TensorProto

from calibration.external_tensors import is_referred_to
from calibration.graph import SATURATING_OPERATORS, Graph

_KEEP_FINITE = frozenset(
    {"Add", "AveragePool", "Concat", "Flatten", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "MaxPool"}
    | {"Mul", "ReduceMean", "Reshape", "Sigmoid", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"}
    | set(SATURATING_OPERATORS)
)
"""Of operands within `LARGEST` they make no NaN, and no infinity that could become one."""
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FACTORS = ("alpha", "beta")
"""Of a Gemm or a HardSigmoid."""
_MOST_WEIGHT = 1e18
"""Of a product's weights in sum: times `LARGEST`, a sum of products is a float32 still, in whatever order."""


def never_nan(graph: Graph, checked: frozenset[str]) -> frozenset[str]:
    """What cannot hold NaN where every tensor of `checked`, in which NaN is looked for or impossible, is within
    `LARGEST`."""
    finite = {name for name in graph.initializers if _is_small(graph, name)} | (checked & set(graph.inputs))
    found = set()
    for node in graph.nodes:
        safe = all(name in finite for name in node.input if name) and _keeps_finite(graph, node)
        for name in node.output:
            found.update([name] if safe else [])
            # What is not checked, as a Relu or Clip alone reads it, may have grown beyond `LARGEST`, as it may there.
            is_cut = name == node.output[0] != graph.tail(node)
            finite.update([name] if name in checked or (safe and is_cut) else [])
    return frozenset(found)


def _keeps_finite(graph: Graph, node: NodeProto) -> bool:
    if any(abs(item.f) > 1 for item in node.attribute if item.name in _FACTORS):
        return False
    if node.op_type in _WEIGHTED:
        return all(name in graph.initializers for name in node.input[1:] if name)
    return node.op_type in _KEEP_FINITE


def _is_small(graph: Graph, name: str) -> bool:
    """A weight of a large model stays in its file, unread."""
    tensor = graph.initializers[name]
    if tensor.data_type != TensorProto.FLOAT:
        return True
    if is_referred_to(tensor):
        return False
    total = float(np.add.reduce(np.abs(graph.constant(name)), axis=None, dtype=np.float64))
    return math.isfinite(total) and total <= _MOST_WEIGHT
