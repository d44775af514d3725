"""How many values tensors have, as far as the shapes of the graph's inputs tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, final

from numpy.typing import NDArray

from calibration.graph import Graph


@final
class KnownSizes:
    """Sizes of those tensors whose dimensions are numbers or names of dimensions of the inputs."""

    def __init__(self, graph: Graph, tensors: Sequence[str]) -> None:
        """What the graph's outputs are declared to be is a claim: of those only numbers are taken."""
        self._axis_of: dict[str, tuple[str, int]] = {}
        for feed in graph.inputs:
            for axis, dimension in enumerate(graph.dimensions(feed) or ()):
                if isinstance(dimension, str):
                    self._axis_of.setdefault(dimension, (feed, axis))
        self._factors: dict[str, tuple[int, tuple[str, ...]]] = {}
        for name in tensors:
            dimensions = graph.dimensions(name)
            names = tuple(each for each in dimensions or () if isinstance(each, str))
            told = set() if name in graph.outputs else self._axis_of.keys()
            if dimensions is not None and None not in dimensions and told >= set(names):
                self._factors[name] = prod(each for each in dimensions if isinstance(each, int)), names

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._factors

    def least(self, tensor: str) -> int:
        """For one image, where each dimension that has a name is 1; 0 of what is not in here."""
        return self._factors[tensor][0] if tensor in self else 0

    def of(self, tensor: str, feeds: Mapping[str, NDArray[Any]]) -> int:
        """Of a tensor that is in here, for these inputs."""
        size, names = self._factors[tensor]
        for feed, axis in (self._axis_of[name] for name in names):
            size *= feeds[feed].shape[axis]
        return size
