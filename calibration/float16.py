"""The FP16 graph: half precision inside, float32 at its inputs and outputs, float32 where half would overflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.errors import CalibrationError, GraphRefused
from calibration.external_data import check
from calibration.float_types import HALF, FloatType
from calibration.graph import SATURATING_OPERATORS, Graph, subgraphs
from calibration.names import FreshNames
from calibration.prepare import opset_of
from calibration.ranges import Ranges

HALF_MAX = 65504.0
_HEADROOM = 2.0
"""Calibration has not seen everything: a measured magnitude may double before half precision overflows."""

_WORST_CONSTANT_ERROR = 0.01
"""Relative error of a scalar, such as an epsilon, at which rounding it to half precision changes its meaning."""

_FLOAT = int(TensorProto.FLOAT)


def float16_from_float32(model: ModelProto, ranges: Ranges) -> ModelProto:
    """A prepared model in half precision, its inputs and outputs still float32.

    The ranges must be the exact extremes (method `minmax`). The nodes that `float32_nodes` lists keep float32, with
    casts around them. Raises CalibrationError on ranges of another method.
    """
    return in_16_bits(model, float32_nodes(model, ranges), HALF)


def in_16_bits(model: ModelProto, kept: Mapping[str, str], to: FloatType) -> ModelProto:
    """A model in another float type but for the nodes that are kept in float32, each with its reason."""
    return _Converter(model, kept, to).converted()


def float32_nodes(model: ModelProto, ranges: Ranges) -> dict[str, str]:
    """The nodes that stay in float32, each with its reason."""
    if ranges.method != "minmax":
        raise CalibrationError(
            f"ranges of method {ranges.method!r} cut off what half precision must hold; give those of 'minmax'"
        )
    graph = Graph(model)
    opset = opset_of(model)
    found = ((node.name, _why_float32(graph, node, ranges, opset)) for node in graph.nodes)
    return {name: reason for name, reason in found if reason is not None}


def _why_float32(graph: Graph, node: NodeProto, ranges: Ranges, opset: int) -> str | None:
    if (reason := why_not_of_type(graph, node, opset, HALF)) is not None:
        return reason
    for name in (*node.input, *node.output):
        if name in graph.initializers and graph.is_float(name):
            reason = _why_not_half(name, graph.constant(name))
        else:
            reason = why_too_large(graph, name, ranges)
        if reason is not None:
            return reason
    return None


def why_not_of_type(graph: Graph, node: NodeProto, opset: int, to: FloatType) -> str | None:
    """What keeps a node in float32 whatever its values are."""
    if (reason := _why_foreign(graph, node)) is not None:
        return reason
    if not any(graph.is_float(name) for name in (*node.input, *node.output) if name) or _takes(node, opset, to):
        return None
    return f"{node.op_type} has no {to.words} in opset {opset}"


def _why_foreign(graph: Graph, node: NodeProto) -> str | None:
    if node.domain not in {"", "ai.onnx"}:
        return f"{node.domain}.{node.op_type} is not a standard operator, so what it takes is unknown"
    if any(subgraphs(node)):
        return f"{node.op_type} holds a subgraph, which stays as it is"
    captured = any(name in graph.captured for name in node.output)
    return "the subgraph of another node reads it in float32" if captured else None


def why_too_large(graph: Graph, name: str, ranges: Ranges) -> str | None:
    """What keeps a tensor out of half precision."""
    # What only a Relu or Clip reads is not measured: below, it saturates to what the Relu makes of it anyway.
    reader = graph.sole_reader(name) if name else None
    if name not in ranges.tensors and reader is not None and reader.op_type in SATURATING_OPERATORS:
        name = reader.output[0]
    if name not in ranges.tensors:
        return None
    amax = ranges.tensors[name].amax
    if amax * _HEADROOM <= HALF_MAX:
        return None
    return f"tensor {name!r} reaches {amax:.6g}; half precision ends at {HALF_MAX:.0f}, and headroom of 2 is kept"


def _why_not_half(name: str, values: NDArray[np.float32]) -> str | None:
    if not values.size:
        return None
    amax = float(np.abs(values).max())
    if amax > HALF_MAX:
        return f"constant {name!r} reaches {amax:.6g}; half precision ends at {HALF_MAX:.0f}"
    scalar = float(values.reshape(-1)[0])
    if values.size == 1 and abs(float(np.float16(scalar)) - scalar) > _WORST_CONSTANT_ERROR * abs(scalar):
        return f"constant {name!r} is {scalar:.6g}, which half precision cannot represent"
    return None


def _takes(node: NodeProto, opset: int, to: FloatType) -> bool:
    """Whether the operator's definition gives a float operand of this node the choice of this type."""
    if any(attribute.name == "dtype" for attribute in node.attribute):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset)
    return any(
        f"tensor({to.name})" in types for types in (*_types(schema, schema.inputs), *_types(schema, schema.outputs))
    )


def _only_float(
    formal: Sequence[onnx.defs.OpSchema.FormalParameter], schema: onnx.defs.OpSchema, count: int, to: FloatType
) -> set[int]:
    """Positions that have no such type by definition, such as the scales of a Resize."""
    types = _types(schema, formal)
    # The last parameter of Concat, Max and the like stands for all that follow.
    return {i for i in range(count) if types and f"tensor({to.name})" not in types[min(i, len(types) - 1)]}


def _types(schema: onnx.defs.OpSchema, formal: Sequence[onnx.defs.OpSchema.FormalParameter]) -> list[frozenset[str]]:
    """The types that each parameter may have."""
    named = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return [frozenset(named.get(parameter.type_str, [parameter.type_str])) for parameter in formal]


class _Converter:
    """Builds the copy of one model in another float type."""

    def __init__(self, model: ModelProto, kept: Mapping[str, str], to: FloatType) -> None:
        self._model, self._to = model, to
        self._graph = Graph(model)
        self._opset = opset_of(model)
        self._kept = kept
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._type: dict[str, int] = dict.fromkeys(self._graph.inputs, _FLOAT)  # of float tensors in the new graph
        self._casts: dict[tuple[str, int], str] = {}
        self._names = FreshNames(model)

    def converted(self) -> ModelProto:
        for name in sorted(self._graph.captured & self._graph.initializers.keys()):
            self._initializers[name] = self._graph.initializers[name]
        for node in self._graph.nodes:
            self._convert(node)
        result = ModelProto()
        result.CopyFrom(self._model)
        del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
        result.graph.node.extend(self._nodes)
        result.graph.initializer.extend(self._initializers.values())
        try:
            check(result, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise GraphRefused(f"the graph has no valid form in {self._to.words}: {error}") from error
        return result

    def _convert(self, original: NodeProto) -> None:
        node = NodeProto()
        node.CopyFrom(original)
        wanted = _FLOAT if node.name in self._kept else self._to.onnx
        float_inputs, float_outputs = self._float_positions(node) if wanted != _FLOAT else (set(), set())
        for position, name in enumerate(original.input):
            if name:
                node.input[position] = self._input(name, _FLOAT if position in float_inputs else wanted)
        if wanted != _FLOAT:
            _mend_attributes(node, self._to)
        renamed = self._outputs(node, wanted, float_outputs)
        self._nodes.append(node)
        for inner, outer in renamed:
            self._nodes.append(self._cast_node(inner, outer, _FLOAT))

    def _float_positions(self, node: NodeProto) -> tuple[set[int], set[int]]:
        schema = onnx.defs.get_schema(node.op_type, self._opset)
        inputs = _only_float(schema.inputs, schema, len(node.input), self._to)
        return inputs, _only_float(schema.outputs, schema, len(node.output), self._to)

    def _input(self, name: str, wanted: int) -> str:
        """The tensor in the type that a reader wants, cast once for all its readers."""
        if not self._graph.is_float(name):
            if name in self._graph.initializers:
                self._initializers.setdefault(name, self._graph.initializers[name])
            return name
        if name in self._graph.initializers:
            return self._initializer(name, wanted)
        if self._type.get(name, _FLOAT) == wanted:
            return name
        if (name, wanted) not in self._casts:
            cast = self._names.like(f"{name}_{'float32' if wanted == _FLOAT else self._to.name}")
            self._nodes.append(self._cast_node(name, cast, wanted))
            self._casts[name, wanted] = cast
        return self._casts[name, wanted]

    def _initializer(self, name: str, wanted: int) -> str:
        if wanted == _FLOAT:
            self._initializers.setdefault(name, self._graph.initializers[name])
            return name
        if (name, wanted) not in self._casts:
            half = self._casts[name, wanted] = self._names.like(f"{name}_{self._to.name}")
            values = self._to.rounded(self._graph.constant(name))
            self._initializers[half] = numpy_helper.from_array(values, half)
        return self._casts[name, wanted]

    def _outputs(self, node: NodeProto, wanted: int, float_outputs: set[int]) -> Sequence[tuple[str, str]]:
        """Notes the types of what a node writes; graph outputs in 16 bits get an inner name and a cast."""
        renamed = []
        for position, name in enumerate(node.output):
            if not name or not self._graph.is_float(name):
                continue
            written = _FLOAT if position in float_outputs else wanted
            self._type[name] = written
            if written != _FLOAT and name in self._graph.outputs:
                node.output[position] = self._names.like(f"{name}_{self._to.name}")
                renamed.append((node.output[position], name))
                self._type[name] = _FLOAT
                self._casts[name, written] = node.output[position]
        return renamed

    def _cast_node(self, source: str, target: str, to: int) -> NodeProto:
        return helper.make_node("Cast", [source], [target], name=self._names.like(f"Cast_{target}"), to=to)


def _mend_attributes(node: NodeProto, to: FloatType) -> None:
    """Where an attribute, not an input, says that the output is float32, it now says the other type."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
            attribute.i = to.onnx
        if node.op_type == "ConstantOfShape" and attribute.name == "value" and attribute.t.data_type == _FLOAT:
            values = to.rounded(numpy_helper.to_array(attribute.t))
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
