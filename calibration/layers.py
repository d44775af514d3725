"""The layers of a graph that have multiply-adds: how many, and which block each belongs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper

from calibration.errors import CalibrationError
from calibration.graph import Graph, attribute
from calibration.placement.place import Placement
from calibration.prepare import COMPUTE_OPERATORS
from calibration.quality import session_as_written
from calibration.statistics.collect import Batch

MULTIPLYING_OPERATORS = (*COMPUTE_OPERATORS, "ConvTranspose")

_PATH = re.compile(r"[/.]")


@dataclass(frozen=True)
class Layer:
    """One convolution or product."""

    node: str
    path: str
    """Of the module that it came from, where that is known; else its name."""
    operator: str
    input: str
    """The activation that it multiplies."""
    group: str
    """The block that it belongs to; its own name where it stands alone."""
    multiply_adds: int
    """For one sample."""


def layers_of(model: ModelProto, batch: Batch, modules: Mapping[str, str] | None = None) -> tuple[Layer, ...]:
    """Every layer of a prepared model, in its order; the batch gives the sizes that the graph leaves open.

    `modules` are source modules by node name, as an exporter knows them; without them blocks come from paths in the
    nodes' names, or else from the residual sums.
    """
    graph = Graph(model)
    nodes = [node for node in graph.nodes if node.op_type in MULTIPLYING_OPERATORS]
    shapes = _shapes(model, graph, nodes, batch)
    paths = {node.name: (modules or {}).get(node.name) or str(node.name) for node in nodes}
    groups = _groups(graph, nodes, paths)
    return tuple(
        Layer(
            node.name,
            paths[node.name],
            node.op_type,
            str(node.input[0]),
            groups[node.name],
            _multiply_adds(node, shapes) // len(batch.ids),
        )
        for node in nodes
    )


def int8_share(layers: Iterable[Layer], placement: Placement) -> float:
    """Of the multiply-adds."""
    quantized = set(placement.quantized_nodes)
    every = list(layers)
    total = sum(layer.multiply_adds for layer in every)
    return sum(layer.multiply_adds for layer in every if layer.node in quantized) / total if total else 0.0


def _shapes(model: ModelProto, graph: Graph, nodes: Sequence[NodeProto], batch: Batch) -> dict[str, tuple[int, ...]]:
    """Of all that the nodes read and write, in one run."""
    shapes = {name: tuple(tensor.dims) for name, tensor in graph.initializers.items()}
    shapes |= {name: array.shape for name, array in batch.feeds.items()}
    wanted = dict.fromkeys(name for node in nodes for name in (*node.input[:2], node.output[0]) if name not in shapes)
    names = [name for name in wanted if name]
    sized = ModelProto()
    sized.CopyFrom(model)
    ones: list[NodeProto] = [
        helper.make_node("Shape", [name], [f"{name}:shape"], name=f"{name}:shape") for name in names
    ]
    sized.graph.node.extend(ones)
    del sized.graph.output[:]
    sized.graph.output.extend(helper.make_tensor_value_info(f"{n}:shape", TensorProto.INT64, None) for n in names)
    found = session_as_written(sized, 1).run([f"{name}:shape" for name in names], dict(batch.feeds)) if names else []
    return shapes | {name: tuple(int(size) for size in shape) for name, shape in zip(names, found, strict=True)}


def _multiply_adds(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    weight, output = shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return _product(output) * _product(weight[1:])
    if node.op_type == "ConvTranspose":
        return _product(shapes[node.input[0]]) * _product(weight[1:])
    if node.op_type == "Gemm":
        return _product(output) * weight[1 if attribute(node, "transB", 0) else 0]
    return _product(output) * shapes[node.input[0]][-1]


def _product(sizes: Sequence[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found


def _groups(graph: Graph, nodes: Sequence[NodeProto], paths: Mapping[str, str]) -> dict[str, str]:
    """The nearest module that holds several layers and not all; without paths, the residual sum a layer ends in."""
    above = {node.name: _ancestors(paths[node.name]) for node in nodes}
    if not any(above.values()):
        above = {node.name: _residual_sum(graph, node) for node in nodes}
    sizes = Counter(ancestor for ancestors in above.values() for ancestor in ancestors)
    return {
        name: next((each for each in ancestors if 1 < sizes[each] < len(nodes)), name)
        for name, ancestors in above.items()
    }


def _ancestors(path: str) -> list[str]:
    """`stages.1`, `stages` of `stages.1.conv1`."""
    steps = [step for step in _PATH.split(path) if step]
    return [".".join(steps[:count]) for count in range(len(steps) - 1, 0, -1)]


def _residual_sum(graph: Graph, node: NodeProto) -> list[str]:
    """The first sum of two activations that the node's result reaches, if any."""
    tensors = {node.output[0]}
    for reader in graph.nodes:  # readers come after what they read
        if not tensors.intersection(reader.input):
            continue
        if reader.op_type == "Add" and not any(name in graph.initializers for name in reader.input):
            return [str(reader.name)]
        tensors.update(reader.output)
    return []


def checked_names(names: Iterable[str], layers: Sequence[Layer], where: str) -> None:
    """Raises CalibrationError for a name that is no layer's."""
    known = [layer.node for layer in layers]
    for name in names:
        if name not in known:
            shown = ", ".join(known[:6]) + (" …" if len(known) > 6 else "")
            raise CalibrationError(f"{where}: the graph has no layer {name!r}; its layers are {shown}")
