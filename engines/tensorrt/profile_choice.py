"""Which of an engine's optimization profiles takes the sizes at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engines.base import TensorInfo
from engines.errors import EngineError
from engines.tensorrt.api import ICudaEngine

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class SizeRange:
    """What one dynamic dimension of an input may be under one profile."""

    position: int
    least: int
    most: int

    def holds(self, shape: tuple[int, ...]) -> bool:
        return self.least <= shape[self.position] <= self.most

    def __str__(self) -> str:
        return f"{self.least} to {self.most}"


ProfileRanges = Mapping[str, tuple[SizeRange, ...]]
"""By the name of each dynamic input."""


def profile_ranges(engine: ICudaEngine, inputs: Sequence[TensorInfo]) -> tuple[ProfileRanges, ...]:
    """Of each profile; one without ranges where no input is dynamic."""
    dynamic = [info for info in inputs if -1 in info.shape]
    return tuple(
        {info.name: _ranges(engine, info, index) for info in dynamic}
        for index in range(engine.num_optimization_profiles)
    )


def chosen_profile(profiles: Sequence[ProfileRanges], shapes: Shapes) -> int:
    """The first that takes these shapes; raises EngineError with the sizes that the engine was built for."""
    for index, ranges in enumerate(profiles):
        if all(each.holds(shapes[name]) for name, found in ranges.items() for each in found):
            _require_one_batch(ranges, shapes)
            return index
    raise EngineError(_why_none(profiles, shapes))


def _ranges(engine: ICudaEngine, info: TensorInfo, profile: int) -> tuple[SizeRange, ...]:
    low, _, high = engine.get_tensor_profile_shape(info.name, profile)
    return tuple(SizeRange(at, low[at], high[at]) for at, size in enumerate(info.shape) if size == -1)


def _require_one_batch(ranges: ProfileRanges, shapes: Shapes) -> None:
    sizes = {name: shapes[name][0] for name, found in ranges.items() if found[0].position == 0}
    if len(set(sizes.values())) > 1:
        raise EngineError(
            f"inputs differ in batch size: {', '.join(f'{name!r} {size}' for name, size in sizes.items())}"
        )


def _why_none(profiles: Sequence[ProfileRanges], shapes: Shapes) -> str:
    for name, first in profiles[0].items():
        for number, each in enumerate(first):
            ranges = [profile[name][number] for profile in profiles]
            if not any(one.holds(shapes[name]) for one in ranges):
                size, at = shapes[name][each.position], each.position
                what = "batch size" if at == 0 else f"dimension {at} of size"
                built_for = ", or ".join(dict.fromkeys(map(str, ranges)))
                return f"input {name!r} has {what} {size}; the engine was built for {built_for}"
    given = ", ".join(f"{name!r} {list(shapes[name])}" for name in profiles[0])
    taken = "; ".join(f"profile {index} takes {_written(ranges)}" for index, ranges in enumerate(profiles))
    return f"no profile of the engine takes these sizes together: {given}; {taken}"


def _written(ranges: ProfileRanges) -> str:
    return ", ".join(f"{name!r} dimension {each.position} {each}" for name, found in ranges.items() for each in found)
