"""What placement rules produce, and the questions about a node that every family asks."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import NodeProto, helper

from calibration.graph import Edge, Graph, attribute
from calibration.placement.rules.every_family import (
    CONSTANT_FIRST,
    GEMM_FACTORS,
    NOT_FLOAT,
    OUTPUT_HEAD,
    RUN_TIME_WEIGHT,
    WEIGHT_RANK,
)
from calibration.placement.rules.rule import Verdict


@dataclass(frozen=True)
class Decision:
    """Whether a node is meant to run in INT8, and why."""

    node: str
    operator: str
    quantized: bool
    reason: str
    rule: str
    """Its name in `calibration.placement.rules.RULES`, which knows pattern, source and versions."""


@dataclass(frozen=True)
class Activation:
    """An activation that gets a Q/DQ pair."""

    tensor: str
    range_from: str
    """The tensor whose range sets the scale: the tensor itself, or the one it is rearranged from."""
    readers: tuple[tuple[str, int], ...]
    """(node, input position) of those that read the dequantized tensor; all others read the float one."""
    margin: float = 1.0
    """How far the scale reaches, over the range."""


@dataclass(frozen=True)
class Weight:
    """A constant operand that is stored as INT8, with the node that it belongs to."""

    tensor: str
    node: str
    axis: int
    """Of the output channels: one scale for each."""
    activation: str
    """The other operand: its scale times the weight's is the scale of an INT32 bias."""
    bias: str | None


@dataclass
class Sites:
    """What the rules of one family found in one graph; a node that is decided before they look keeps its decision."""

    verdicts: dict[str, tuple[bool, Verdict]] = field(default_factory=dict)
    """By node: whether it is quantized, and the rule that says so."""
    activations: dict[str, Activation] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)

    def accept(self, node: NodeProto, verdict: Verdict) -> None:
        self.verdicts[node.name] = (True, verdict)

    def refuse(self, node: NodeProto, verdict: Verdict) -> None:
        self.verdicts[node.name] = (False, verdict)

    def is_decided(self, node: NodeProto) -> bool:
        return node.name in self.verdicts

    def is_quantized(self, node: NodeProto) -> bool:
        return node.name in self.verdicts and self.verdicts[node.name][0]

    def read_operands_dequantized(self, node: NodeProto, operands: Operands, bias: str | None = None) -> None:
        """Gives the node's activations a Q/DQ pair each, and stores its constant operand as INT8."""
        for position in operands.activations:
            self.read_dequantized(node.input[position], [Edge(node, position)])
        if operands.weight_axis is not None:
            self.weights.append(Weight(node.input[1], node.name, operands.weight_axis, node.input[0], bias))

    def read_dequantized(
        self, tensor: str, edges: list[Edge], range_from: str | None = None, margin: float | None = None
    ) -> None:
        """Gives the tensor a Q/DQ pair, whose output the edges read; one of another tensor's range has its margin."""
        before = self.activations.get(tensor)
        readers = {(edge.node.name, edge.position): None for edge in edges}
        known = dict.fromkeys(before.readers) if before else {}
        source = range_from or (before.range_from if before else tensor)
        if margin is None:
            like = self.activations.get(range_from) if range_from else before
            margin = like.margin if like else 1.0
        self.activations[tensor] = Activation(tensor, source, tuple({**known, **readers}), margin)


@dataclass(frozen=True)
class Operands:
    """What a convolution or product multiplies: positions of its activations, and its constant operand if any."""

    activations: tuple[int, ...]
    weight_axis: int | None
    """Of the output channels of the constant operand at position 1; None where both operands are activations."""


_PASS_THROUGH_OPERATORS = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Identity", "Dropout"}
)

_UNARY_OPERATORS = _PASS_THROUGH_OPERATORS | {
    "Resize",
    "Relu",
    "Clip",
    "Sigmoid",
    "Tanh",
    "Softmax",
    "LogSoftmax",
    "HardSwish",
    "HardSigmoid",
    "Elu",
    "LeakyRelu",
    "Gelu",
    "Cast",
    "Add",
    "Mul",
    "Sub",
    "Div",
}


def passes_through(node: NodeProto) -> bool:
    """Whether the node moves values and makes none: what goes out is on the grid of what came in."""
    if node.op_type != "Resize":
        return node.op_type in _PASS_THROUGH_OPERATORS
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    fills = given.get("coordinate_transformation_mode") == b"tf_crop_and_resize"  # what lies outside, with a constant
    return given.get("mode", b"nearest") == b"nearest" and not fills


def operands_of(graph: Graph, node: NodeProto) -> Operands | Verdict:
    """What the node multiplies, or the reason why it stays in float; an output head does."""
    operands = int8_operands(graph, node)
    return OUTPUT_HEAD.says() if isinstance(operands, Operands) and is_head(graph, node) else operands


def int8_operands(graph: Graph, node: NodeProto) -> Operands | Verdict:
    """What the node multiplies, or the reason why no runtime takes it in INT8."""
    if not all(graph.is_float(name) for name in node.input[:2]):
        return NOT_FLOAT.says()
    if node.input[0] in graph.initializers:
        return CONSTANT_FIRST.says()
    if node.op_type == "Conv":
        return Operands((0,), 0) if node.input[1] in graph.initializers else RUN_TIME_WEIGHT.says()
    if node.op_type == "Gemm":
        return _gemm_operands(graph, node)
    if node.input[1] not in graph.initializers:
        return Operands((0, 1), None)
    rank = len(graph.shape(node.input[1]) or ())
    return Operands((0,), 1) if rank == 2 else WEIGHT_RANK.says(rank=rank)


def _gemm_operands(graph: Graph, node: NodeProto) -> Operands | Verdict:
    if node.input[1] not in graph.initializers:
        return RUN_TIME_WEIGHT.says()
    factors = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if factors.get("alpha", 1.0) != 1.0 or factors.get("beta", 1.0) != 1.0 or factors.get("transA", 0):
        return GEMM_FACTORS.says()
    return Operands((0,), 0 if attribute(node, "transB", 0) else 1)


def is_head(graph: Graph, node: NodeProto) -> bool:
    """Whether the node's result becomes a graph output with nothing but element-wise work on one tensor between."""
    tensor = node.output[0]
    while tensor not in graph.outputs:
        reader = graph.sole_reader(tensor)
        if reader is None or reader.op_type not in _UNARY_OPERATORS:
            return False
        if any(graph.is_float(name) and name != tensor and name not in graph.initializers for name in reader.input):
            return False
        tensor = reader.output[0]
    return True


def bias_of(graph: Graph, node: NodeProto) -> str | None:
    """The constant bias of a Conv or Gemm, one value per output channel; any other stays float."""
    if node.op_type == "MatMul" or len(node.input) < 3 or node.input[2] not in graph.initializers:
        return None
    return str(node.input[2]) if len(graph.shape(node.input[2]) or ()) == 1 else None
