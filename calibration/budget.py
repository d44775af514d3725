"""Which layers to keep in float so that a graph stays within a budget and still runs as much as it can in INT8.

Whole placements are tried and judged exactly. Layers are put in an order, the shortest head of it that has to be spared
is found by bisection, and so on for several orders: by cost for what a layer wins, by cost alone, by what it wins, and
whole blocks; then each spared layer is offered back, the most rewarding first. The number of trials is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Spared = frozenset[str]


@dataclass(frozen=True)
class Judged:
    """A placement that was tried."""

    spared: Spared
    within: bool
    """Whether the budget holds."""
    value: float
    """What is to be as large as possible: the share of multiply-adds in INT8, or the time that INT8 saves."""
    closeness: tuple[float, ...]
    """The larger, the closer to the float graph."""


@dataclass(frozen=True)
class Costs:
    """What is known of each layer before whole placements are tried."""

    noise: Mapping[str, float]
    """Noise over signal that it adds to the output; any scale, the same for all."""
    win: Mapping[str, float]
    """What INT8 wins there: multiply-adds, or time; where it is not above 0, the layer is spared at once."""
    groups: Mapping[str, str]
    """Block by layer."""


@dataclass
class _Trials:
    judge: Callable[[Spared], Judged]
    most: int
    tried: dict[Spared, Judged] = field(default_factory=dict)

    @property
    def exhausted(self) -> bool:
        return len(self.tried) >= self.most

    def of(self, spared: Spared) -> Judged | None:
        """None where no further placement may be tried."""
        if spared not in self.tried:
            if self.exhausted:
                return None
            self.tried[spared] = self.judge(spared)
        return self.tried[spared]

    def best_within(self) -> Judged | None:
        within = [each for each in self.tried.values() if each.within]
        return max(within, key=lambda each: (each.value, each.closeness), default=None)


def search(costs: Costs, judge: Callable[[Spared], Judged], most: int) -> Judged:
    """The placement within the budget that wins most; the closest one where none of those tried is within it.

    `judge` builds and judges the placement that spares these layers; it is called at most `most` times, and never
    for a placement without INT8.
    """
    layers = list(costs.win)
    start = frozenset(layer for layer in layers if costs.win[layer] <= 0)
    if len(start) == len(layers):
        start = frozenset()  # INT8 wins nowhere: what it costs is still to be known
    trials = _Trials(judge, most)
    first = trials.of(start)
    if first is not None and first.within:
        return first
    for units in _orders(costs, start):
        _bisect(trials, start, units)
    if trials.best_within() is None:
        _one_by_one(trials, costs)
    _take_back(trials, costs, start)
    best = trials.best_within()
    return best if best is not None else max(trials.tried.values(), key=lambda each: (each.closeness, each.value))


def _orders(costs: Costs, start: Spared) -> Iterator[list[Spared]]:
    """What to spare first, second, …: layers and blocks, the worst first."""
    layers = [frozenset([layer]) for layer in costs.win if layer not in start]
    blocks: dict[str, set[str]] = {}
    for layer in costs.win:
        if layer not in start:
            blocks.setdefault(costs.groups[layer], set()).add(layer)
    units = [frozenset(block) for block in blocks.values()]

    def noise(unit: Spared) -> float:
        return sum(costs.noise[layer] for layer in unit)

    def noise_for_win(unit: Spared) -> float:
        return noise(unit) / sum(costs.win[layer] for layer in unit)

    yield sorted(layers, key=noise_for_win, reverse=True)
    yield sorted(layers, key=noise, reverse=True)
    yield sorted(layers, key=lambda unit: sum(costs.win[layer] for layer in unit))  # one large layer may be worth all
    if len(units) < len(layers):
        yield sorted(units, key=noise_for_win, reverse=True)


def _bisect(trials: _Trials, start: Spared, units: Sequence[Spared]) -> None:
    """Finds the shortest head of the order that has to be spared, taking for granted that a longer one costs less."""
    without, enough = 0, len(units)
    while enough - without > 1:
        middle = (without + enough) // 2
        judged = trials.of(start.union(*units[:middle]))
        if judged is None:
            return
        if judged.within:
            enough = middle
        else:
            without = middle


def _one_by_one(trials: _Trials, costs: Costs) -> None:
    """No head of an order fits: the layers alone, the least noisy first, until one does."""
    every = frozenset(costs.win)
    for layer in sorted(every, key=lambda name: (costs.noise[name], name)):
        judged = trials.of(every - {layer})
        if judged is None or judged.within:
            return


def _take_back(trials: _Trials, costs: Costs, start: Spared) -> None:
    """Offers INT8 to each spared layer again, the most rewarding first, and keeps what stays within the budget."""
    best = trials.best_within()
    if best is None:
        return
    for layer in sorted(best.spared - start, key=lambda name: (-costs.win[name], name)):
        judged = trials.of(best.spared - {layer})
        if judged is None:
            return
        if judged.within:
            best = judged
