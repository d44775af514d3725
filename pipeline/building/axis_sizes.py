"""The sizes of its dynamic axes that an engine is built for, as a recipe gives them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from engines.base import AxisProfile


class Profile(BaseModel):
    """Batch sizes of an engine of dynamic batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: PositiveInt = 1
    opt: PositiveInt = 8
    max: PositiveInt = 64

    @model_validator(mode="after")
    def _ordered(self) -> Profile:
        _require_rising(self.min, self.opt, self.max)
        return self


class AxisSizes(BaseModel):
    """Sizes of another dynamic axis: no default would fit every network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: PositiveInt
    opt: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> AxisSizes:
        _require_rising(self.min, self.opt, self.max)
        return self


def axis_profile(sizes: Profile | AxisSizes) -> AxisProfile:
    """What the engine is told of them."""
    return AxisProfile(sizes.min, sizes.opt, sizes.max)


def _require_rising(least: int, tuned: int, most: int) -> None:
    if not least <= tuned <= most:
        raise ValueError(f"min {least}, opt {tuned}, max {most} must rise in this order")
