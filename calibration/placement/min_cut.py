"""The cheapest of all labellings with two labels: minimum cut by maximum flow (Dinic, 1970)."""

from __future__ import annotations

from collections import deque
from typing import final

_SOURCE, _SINK = 0, 1
_SMALLEST = 1e-9


@final
class Labelling:
    """Variables with a cost for each of two labels, and costs between variables whose labels differ."""

    def __init__(self) -> None:
        self._heads: list[list[int]] = [[], []]  # edges that leave a vertex
        self._targets: list[int] = []
        self._capacities: list[float] = []
        self.cost = 0.0
        """Of the cheapest labelling, once it was asked for."""

    def variable(self, if_first: float, if_second: float) -> int:
        """A new variable that costs the one or the other; infinite where a label is not for it."""
        vertex = len(self._heads)
        self._heads.append([])
        self._edge(_SOURCE, vertex, if_second)
        self._edge(vertex, _SINK, if_first)
        return vertex

    def differ(self, first: int, second: int, cost: float) -> None:
        """Costs where `first` has the first label and `second` the second."""
        self._edge(first, second, cost)

    def cheapest(self) -> set[int]:
        """The variables that have the first label in a labelling of least total cost."""
        while (levels := self._levels())[_SINK] >= 0:
            upcoming = [0] * len(self._heads)
            while (flow := self._pushed(levels, upcoming)) > _SMALLEST:
                self.cost += flow
        return {vertex for vertex, level in enumerate(levels) if level >= 0} - {_SOURCE}

    def _edge(self, source: int, target: int, capacity: float) -> None:
        for at, to, room in ((source, target, capacity), (target, source, 0.0)):
            self._heads[at].append(len(self._targets))
            self._targets.append(to)
            self._capacities.append(room)

    def _levels(self) -> list[int]:
        levels = [-1] * len(self._heads)
        levels[_SOURCE] = 0
        waiting = deque([_SOURCE])
        while waiting:
            vertex = waiting.popleft()
            for edge in self._heads[vertex]:
                target = self._targets[edge]
                if levels[target] < 0 and self._capacities[edge] > _SMALLEST:
                    levels[target] = levels[vertex] + 1
                    waiting.append(target)
        return levels

    def _pushed(self, levels: list[int], upcoming: list[int]) -> float:
        """One augmenting path in the graph of levels, without recursion: networks are hundreds of layers deep."""
        path: list[int] = []
        vertex = _SOURCE
        while vertex != _SINK:
            edge = self._next(vertex, levels, upcoming)
            if edge is not None:
                path.append(edge)
                vertex = self._targets[edge]
            elif path:
                vertex = self._targets[path.pop() ^ 1]
                upcoming[vertex] += 1
            else:
                return 0.0
        flow = min(self._capacities[edge] for edge in path)
        for edge in path:
            self._capacities[edge] -= flow
            self._capacities[edge ^ 1] += flow
        return flow

    def _next(self, vertex: int, levels: list[int], upcoming: list[int]) -> int | None:
        edges = self._heads[vertex]
        while upcoming[vertex] < len(edges):
            edge = edges[upcoming[vertex]]
            if self._capacities[edge] > _SMALLEST and levels[self._targets[edge]] == levels[vertex] + 1:
                return edge
            upcoming[vertex] += 1
        return None
