"""Realized layers from the graph that onnxruntime saved after optimizing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from engines.audit import RealizedLayer, RealizedTensor

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Types = Mapping[str, tuple[str, tuple[int, ...]]]
"""numpy dtype and dims of tensors by name; a dynamic dimension is -1."""

# Positions of the data among a quantized operator's inputs; the rest are scales and zero-points.
# https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
OPERANDS: Mapping[str, slice | tuple[int, ...]] = {
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
    "QLinearConv": (0, 3, 8),
    "QLinearConvTranspose": (0, 3, 8),
    "ConvInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3, 6),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1, 6),
    "DynamicQuantizeMatMul": (0, 1, 4),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
    "QLinearWhere": (0, 1, 4),
    "QLinearConcat": slice(2, None, 3),
    "QLinearAveragePool": (0,),
    "QLinearGlobalAveragePool": (0,),
    "QLinearLeakyRelu": (0,),
    "QLinearSigmoid": (0,),
    "QLinearSoftmax": (0,),
    "QLinearReduceMean": (0,),
}


def expose_tensors(model: ModelProto) -> None:
    """Makes every tensor of the main graph an output, so that a session of it tells their types."""
    from onnx import ValueInfoProto

    known = {output.name for output in model.graph.output}
    for node in model.graph.node:
        fresh = [name for name in node.output if name and name not in known]
        model.graph.output.extend(ValueInfoProto(name=name) for name in fresh)


def realized_layers(optimized: ModelProto, types: Types, source: ModelProto) -> tuple[RealizedLayer, ...]:
    """The nodes of an optimized graph, in its order, each with the nodes of the source graph it stands for.

    Nodes inside If and Loop are listed too; the dtype of a tensor that lives there alone is `unknown`.
    """
    constants = _constants(optimized.graph)
    known = {**types, **constants}
    origin = _Source(source.graph)
    return tuple(_layer(node, known, frozenset(constants), origin) for node in _nodes(optimized.graph))


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _constants(graph: GraphProto) -> dict[str, tuple[str, tuple[int, ...]]]:
    from onnx.helper import tensor_dtype_to_np_dtype

    return {
        tensor.name: (str(tensor_dtype_to_np_dtype(tensor.data_type)), tuple(tensor.dims))
        for tensor in graph.initializer
    }


def _layer(node: NodeProto, types: Types, constants: frozenset[str], source: _Source) -> RealizedLayer:
    def tensor(name: str) -> RealizedTensor:
        dtype, dims = types.get(name, ("unknown", ()))
        return RealizedTensor(name, dtype, dims, constant=name in constants)

    inputs = [tensor(name) for name in _operands(node)]
    if node.op_type == "DynamicQuantizeMatMul":
        # Its float operand becomes UINT8 inside the kernel, before the product.
        inputs[0] = RealizedTensor(inputs[0].name, "uint8", inputs[0].dims, f"quantized from {inputs[0].dtype}")
    origins = source.nodes_behind(node)
    return RealizedLayer(
        name=_name(node),
        kind=_kind(node.op_type),
        operator=node.op_type,
        inputs=tuple(inputs),
        outputs=tuple(tensor(name) for name in node.output if name),
        onnx_nodes=tuple(_name(origin) for origin in origins),
        products=tuple(_name(origin) for origin in origins if _kind(origin.op_type) != "other"),
    )


def _kind(operator: str) -> Literal["convolution", "matmul", "other"]:
    # By part of the name: FusedConv, QLinearConv, ConvInteger, QGemm, MatMulIntegerToFloat, QAttention, ...
    if "Conv" in operator:
        return "convolution"
    return "matmul" if any(word in operator for word in ("MatMul", "Gemm", "Attention", "Einsum")) else "other"


def _operands(node: NodeProto) -> list[str]:
    positions = OPERANDS.get(node.op_type, slice(None))
    if isinstance(positions, slice):
        return [name for name in node.input[positions] if name]
    return [node.input[at] for at in positions if at < len(node.input) and node.input[at]]


def _name(node: NodeProto) -> str:
    return node.name or next(iter(node.output), node.op_type)


class _Source:
    """The graph before optimization."""

    def __init__(self, graph: GraphProto) -> None:
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}

    def nodes_behind(self, node: NodeProto) -> tuple[NodeProto, ...]:
        """Those between an optimized node's outputs and its inputs, since a fusion keeps the names of both.

        Where it did not keep its inputs' names, only the nodes that write its outputs; for a node that the optimizer
        added, none.
        """
        seen, pending = set(node.input), [name for name in node.output if name]
        found: dict[str, NodeProto] = {}
        while pending:
            name = pending.pop(0)
            if name in seen:
                continue
            if name in self._inputs:
                return tuple(self._producers[name] for name in node.output if name in self._producers)
            seen.add(name)
            origin = self._producers.get(name)
            if origin is not None and origin.op_type != "Constant":
                found[_name(origin)] = origin
                pending += [operand for operand in origin.input if operand]
        return tuple(found.values())
