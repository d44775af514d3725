"""Names for the nodes and tensors that a rewritten graph gains."""

from __future__ import annotations

from typing import final

from onnx import ModelProto


@final
class FreshNames:
    """Gives names that no node and no tensor of the model has, each once."""

    def __init__(self, model: ModelProto) -> None:
        self._taken = {name for node in model.graph.node for name in (*node.input, *node.output, node.name)}

    def like(self, wanted: str) -> str:
        """The wanted name, numbered from 2 on where it is taken."""
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name
