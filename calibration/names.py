"""Names for the nodes and tensors that a rewritten graph gains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from onnx import GraphProto, ModelProto

from calibration.graph import subgraphs


def _names(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from (*node.input, *node.output, node.name)
        for inner in subgraphs(node):
            yield from _names(inner)


@final
class FreshNames:
    """Gives names that no node and no tensor of the model has, each once."""

    def __init__(self, model: ModelProto) -> None:
        self._taken = set(_names(model.graph))

    def like(self, wanted: str) -> str:
        """The wanted name, numbered from 2 on where it is taken."""
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name
