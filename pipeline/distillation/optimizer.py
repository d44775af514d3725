"""How weights are moved: the optimizer, and the learning rate at each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    import torch


class LearningRateSchedule(BaseModel):
    """A linear warm-up, then the shape that `name` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["cosine", "step", "constant"] = "cosine"
    """cosine: down to zero; step: times `factor` at each of `at`."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of all steps."""
    at: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (0.5, 0.75)
    """Shares of all steps, rising."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @field_validator("at")
    @classmethod
    def _rises(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)} must rise")
        return value

    def share_at(self, step: int, steps: int) -> float:
        """Of the learning rate; a closed form, so that a resumed run needs no schedule state."""
        warm_up = max(1, round(self.warm_up * steps)) if self.warm_up else 0
        if step < warm_up:
            return (step + 1) / warm_up
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
        passed = sum(step >= share * steps for share in self.at) if self.name == "step" else 0
        return float(self.factor**passed)


class Optimizer(BaseModel):
    """AdamW, or SGD with Nesterov momentum; biases and norms decay as all else does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Of SGD."""
    schedule: LearningRateSchedule = LearningRateSchedule()
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most that the norm of all gradients together may be; longer ones are scaled down to it."""

    def make(self, parameters: Any) -> torch.optim.Optimizer:
        """For the parameters of one network."""
        import torch

        if self.name == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=self.learning_rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=True,
                fused=True,
            )
        # Fused: one pass over the memory of weights and moments in place of ten.
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """At a step of a training of so many."""
        return self.learning_rate * self.schedule.share_at(step, steps)
