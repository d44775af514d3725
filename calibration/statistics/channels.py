"""The extremes of each channel of each activation, where they are asked for: they cost a second run of the graph.

Channels are along axis 1 of images (four dimensions and more), of what a convolution reads or writes and of rows of two
dimensions, else along the last axis. Tensors whose rank or number of channels the graph leaves open have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from calibration.graph import Graph
from calibration.prepare import opset_of
from calibration.statistics.channel_extremes import ChannelExtremes
from calibration.statistics.measured_session import MeasuredSession

_PREFIX = "edgestill:channels:"
_OVER_SPACE = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})
_AXES_ARE_INPUT = 18
"""From this opset on they are an input of ReduceMin and ReduceMax."""


def channel_axes(graph: Graph) -> dict[str, int]:
    """Of each measured tensor that has channels."""
    found = {}
    for name in graph.activations():
        shape = graph.shape(name) or ()
        axis = 1 if len(shape) != 3 or _is_of_convolution(graph, name) else 2
        if len(shape) >= 2 and shape[axis] is not None:
            found[name] = axis
    return found


def _is_of_convolution(graph: Graph, tensor: str) -> bool:
    nodes = [edge.node for edge in graph.readers.get(tensor, ())]
    nodes += [graph.producer[tensor]] if tensor in graph.producer else []
    return any(node.op_type in _OVER_SPACE for node in nodes)


@final
class ChannelSession:
    """Runs the graph for the extremes of the channels alone."""

    def __init__(self, model: ModelProto) -> None:
        """Raises GraphRefused where onnxruntime refuses the graph."""
        graph = Graph(model)
        self._axes = channel_axes(graph)
        reduced = ModelProto()
        reduced.CopyFrom(model)
        outputs = []
        for name, axis in self._axes.items():
            rank = len(graph.shape(name) or ())
            outputs += _reduce(reduced, name, [each for each in range(rank) if each != axis])
        self._session = MeasuredSession(reduced, outputs)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, ChannelExtremes]:
        """By tensor, over the images that are fed."""
        found = self._session.run(feeds)
        return {
            name: ChannelExtremes(found[f"{_PREFIX}ReduceMin:{name}"], found[f"{_PREFIX}ReduceMax:{name}"])
            for name in self._axes
        }


def _reduce(model: ModelProto, tensor: str, axes: list[int]) -> list[str]:
    """Adds nodes that reduce the tensor over the axes; returns what they write."""
    outputs = []
    for operator in ("ReduceMin", "ReduceMax"):
        output = f"{_PREFIX}{operator}:{tensor}"
        if opset_of(model) >= _AXES_ARE_INPUT:
            constant = numpy_helper.from_array(np.array(axes, np.int64), f"{output}:axes")
            model.graph.initializer.append(constant)
            node = helper.make_node(operator, [tensor, constant.name], [output], name=output, keepdims=0)
        else:
            node = helper.make_node(operator, [tensor], [output], name=output, keepdims=0, axes=axes)
        model.graph.node.append(node)
        outputs.append(output)
    return outputs
