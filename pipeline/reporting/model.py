"""What every part of a result is made of."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Result(BaseModel):
    """Frozen, and strict about what it holds: an unknown key, NaN or infinity is a bug of the writer."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class Estimate(Result):
    """A number found from `n` samples, with its confidence interval."""

    value: float
    low: float
    high: float
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    n: PositiveCount

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] is reversed")
        return self
