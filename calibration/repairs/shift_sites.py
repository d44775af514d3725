"""Where the channels of a graph can be moved: which tensors, who gives them, who reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

from calibration.graph import Graph, attribute
from calibration.repairs.biases import BiasSite, bias_site
from calibration.repairs.channel_weights import is_own_constant, takes_scales

ACTIVATIONS = frozenset(
    {"Add", "Mul", "HardSwish", "Swish", "Gelu", "Mish", "Elu", "Selu", "Celu", "Softplus", "Sigmoid", "Tanh"}
)
"""In the kernel behind them there is room for a Mul and an Add."""
RELUS = frozenset({"Relu", "Clip"})
"""The convolution before them computes them, and rounds to 8 bits too, where the runtime has such kernels."""


@dataclass(frozen=True)
class Room:
    """Where nodes cost a runtime no kernel of their own."""

    behind: frozenset[str] = ACTIVATIONS
    """The operators that a Mul and an Add may stand behind."""
    pads: bool = False
    """Whether a Pad may stand in front of these two."""


APART = Room(ACTIVATIONS | RELUS, pads=True)
"""Of a runtime that makes 8 bits of a product's result in a kernel of its own."""


@dataclass(frozen=True)
class Reader:
    """A product that reads a tensor."""

    node: str
    bias: BiasSite
    """Where what a shift adds to the product is taken back."""
    pads: tuple[int, ...] = ()
    """Zeros that a convolution puts around its images: (top, left, bottom, right); empty where it puts none."""


@dataclass(frozen=True)
class Site:
    """A tensor that only products read."""

    tensor: str
    axis: int
    """Of its channels, from the end where negative."""
    giver: BiasSite | None
    """The layer whose constants take shift and scale; None where a Mul and an Add are put behind the tensor."""
    readers: tuple[Reader, ...]

    @property
    def pads(self) -> tuple[int, ...]:
        """What its readers pad with, all of them alike: zeros that are to be there before the shift."""
        return self.readers[0].pads


@dataclass(frozen=True)
class Stream:
    """What a chain of residual adds hands on, all of it with the same scales, each tensor with a shift of its own."""

    givers: dict[str, BiasSite]
    """By the tensor: the convolutions that add to it."""
    adds: tuple[tuple[str, str, str], ...]
    """Both summands and the sum, in the order of the graph."""
    readers: dict[str, tuple[Reader, ...]]
    """By the tensor, of those that products read."""


def sites_of(graph: Graph, products: Collection[str], room: Room = Room()) -> Iterator[Site | Stream]:
    """Those of a prepared graph that only nodes of `products` read, and the residual adds of a stream."""
    streams = list(_streams(graph, products))
    yield from streams
    within = {name for stream in streams for add in stream.adds for name in add}
    for node in graph.nodes:
        tensor = str(node.output[0])
        readers = _readers(graph, tensor, products, room.pads)
        if tensor in within or not readers or len(readers) < len(graph.readers[tensor]) or len(node.output) > 1:
            continue
        giver, axis = _giver(graph, node), _axis(graph, tensor)
        if giver is not None and giver.axis != axis:  # its constants are of other channels than the products'
            continue
        padded = {reader.pads for reader in readers} != {()}
        if padded and len({reader.pads for reader in readers}) > 1:
            continue
        if (giver is not None and not padded) or node.op_type in room.behind:
            yield Site(tensor, axis, None if padded else giver, readers)


def _streams(graph: Graph, products: Collection[str]) -> Iterator[Stream]:
    for nodes in _chains(graph):
        adds = tuple((str(node.input[0]), str(node.input[1]), str(node.output[0])) for node in nodes)
        tensors = dict.fromkeys(name for add in adds for name in add)
        sums = {add[2] for add in adds}
        readers = {name: _readers(graph, name, products, may_pad=False) for name in tensors}
        givers = {name: _giver(graph, graph.producer[name]) for name in tensors if name not in sums}
        inside = {node.name for node in nodes}
        closed = all(
            len(readers[name]) + sum(edge.node.name in inside for edge in graph.readers.get(name, ()))
            == len(graph.readers.get(name, ()))
            and name not in graph.outputs | graph.captured
            for name in tensors
        )
        conv_givers = {name: giver for name, giver in givers.items() if giver is not None and giver.position == 2}
        if closed and len(conv_givers) == len(givers) and any(readers.values()):
            yield Stream(conv_givers, adds, {name: each for name, each in readers.items() if each})


def _chains(graph: Graph) -> list[list[NodeProto]]:
    """Adds of two images of one shape, those together that share a tensor."""
    chains: list[tuple[set[str], list[NodeProto]]] = []
    for node in graph.nodes:
        names = {*node.input, *node.output}
        shapes = {graph.shape(name) for name in names}
        rank4 = len(shapes) == 1 and len(next(iter(shapes)) or ()) == 4
        if node.op_type != "Add" or not rank4 or not names <= graph.producer.keys() or len(names) < 3:
            continue
        touched = [chain for chain in chains if chain[0] & names]
        chains = [chain for chain in chains if not chain[0] & names]
        chains.append((names.union(*(each[0] for each in touched)), [n for each in touched for n in each[1]] + [node]))
    return [nodes for _, nodes in chains]


def _readers(graph: Graph, tensor: str, products: Collection[str], may_pad: bool) -> tuple[Reader, ...]:
    """The products that read a tensor and take a shift; none of one that others see too, or whose rank is unknown."""
    if tensor in graph.outputs or tensor in graph.captured or not graph.shape(tensor):
        return ()
    found = []
    for edge in graph.readers.get(tensor, ()):
        if edge.position == 0 and edge.node.name in products and _takes_shift(graph, edge.node, _axis(graph, tensor)):
            bias, pads = bias_site(graph, edge.node), _pads(edge.node)
            if bias is not None and pads is not None and (may_pad or not pads):
                found.append(Reader(edge.node.name, bias, pads))
    return tuple(found)


def _axis(graph: Graph, tensor: str) -> int:
    """Images have their channels in front."""
    return 1 if len(graph.shape(tensor) or ()) == 4 else -1


def _giver(graph: Graph, node: NodeProto) -> BiasSite | None:
    """The node itself, where all that it multiplies and adds are constants of its own."""
    if not all(is_own_constant(graph, name) for name in node.input[1:] if name):
        return None
    if node.op_type == "Conv":
        return bias_site(graph, node)
    by_last_axis = node.op_type == "LayerNormalization" and attribute(node, "axis", -1) == -1
    if by_last_axis and len(node.input) > 2 and len(graph.shape(node.input[1]) or ()) == 1:
        return BiasSite(node.name, 2, node.output[0], -1)
    return None


def _takes_shift(graph: Graph, node: NodeProto, axis: int) -> bool:
    given = _given(node)
    return takes_scales(graph, node, axis) and bool(given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0)


def _pads(node: NodeProto) -> tuple[int, ...] | None:
    """Zeros around the images that it reads; None where their number depends on the images' size."""
    given = _given(node)
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    pads = tuple(given.get("pads", ()))
    return pads if node.op_type == "Conv" and any(pads) else ()


def _given(node: NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
