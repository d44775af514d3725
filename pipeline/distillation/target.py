"""What a student must reach, what may be tried to get there, and what was tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.weights import term_names
from pipeline.distillation.training import Fit, OnEpoch, Training
from pipeline.names import unknown

State = Literal["met", "complete", "pruned", "failed"]
Settings = Mapping[str, float]
"""By name: `learning_rate`, `kd.temperature`, `kd.alpha`, `hint.weight`."""
Train = Callable[[tuple[DistillationLoss, ...], Training, str, OnEpoch], Fit]
"""(terms, training, title, what is asked after each epoch) -> the student."""

LEARNING_RATE = "learning_rate"


def _checked_range(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 <= low < high or not math.isfinite(high):
        raise ValueError(f"{list(value)} must rise from at least 0")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_checked_range)]


class Target(BaseModel):
    """`[distill.target]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """The task's metric on the validation split, as a share of 1."""
    points_below_teacher: Annotated[float, Field(ge=0, lt=100)] | None = None
    """Percentage points that the student's metric may be below its teacher's, both on validation."""
    trials: PositiveInt = 20
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """After which no trial is started; the one that runs ends."""
    search: Mapping[str, Range] = {}
    """Range by name, such as "kd.temperature" = [1, 8], where another than the usual is wanted."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Target:
        if (self.accuracy is None) == (self.points_below_teacher is None):
            raise ValueError("give either accuracy or points_below_teacher")
        return self

    def check(self, terms: Sequence[DistillationLoss]) -> None:
        """Raises ValueError where a range is given for what no term has."""
        known = ranges(terms, 1.0)
        for name in self.search:
            if name not in known:
                raise ValueError(f"target.search: {unknown('setting', name, known)}")

    def wanted(self, teacher: float) -> float:
        """The least metric, where the teacher has this one."""
        return self.accuracy if self.accuracy is not None else teacher - (self.points_below_teacher or 0.0) / 100

    def in_words(self, teacher: float) -> str:
        """For the report."""
        if self.accuracy is not None:
            return f"at least {self.accuracy:.2%}"
        return f"{self.points_below_teacher:g} points below the teacher's {teacher:.2%}"

    def budget(self) -> str:
        """For the report."""
        minutes = "" if self.minutes is None else f", {self.minutes:g} minutes"
        return f"{self.trials} trials{minutes}"


def ranges(terms: Sequence[DistillationLoss], learning_rate: float) -> dict[str, tuple[float, float]]:
    """What is searched, and how far: temperature 1 to 12, alpha 0 to 0.9, weights and learning rate near their own."""
    found = {LEARNING_RATE: (learning_rate / 4, learning_rate * 4)}
    for name, term in zip(term_names(terms), terms, strict=True):
        if "temperature" in type(term).model_fields:
            found[f"{name}.temperature"] = (1.0, 12.0)
        if "alpha" in type(term).model_fields:
            found[f"{name}.alpha"] = (0.0, 0.9)
        if len(terms) > 1:
            found[f"{name}.weight"] = (term.weight / 10, term.weight * 10)
    return found


def own_settings(terms: Sequence[DistillationLoss], training: Training) -> dict[str, float]:
    """What the recipe itself says: the first trial."""
    own = {LEARNING_RATE: training.optimizer.learning_rate}
    for name in ranges(terms, 1.0):
        term, _, field = name.partition(".")
        if field:
            own[name] = float(getattr(dict(zip(term_names(terms), terms, strict=True))[term], field))
    return own


def applied(
    terms: Sequence[DistillationLoss], training: Training, settings: Settings
) -> tuple[tuple[DistillationLoss, ...], Training]:
    """The terms and the training with these settings."""
    changed = tuple(
        term.model_copy(
            update={
                field: settings[f"{name}.{field}"]
                for field in ("temperature", "alpha", "weight")
                if f"{name}.{field}" in settings
            }
        )
        for name, term in zip(term_names(terms), terms, strict=True)
    )
    optimizer = training.optimizer.model_copy(update={"learning_rate": settings[LEARNING_RATE]})
    return changed, replace(training, optimizer=optimizer)


@dataclass(frozen=True)
class Trial:
    """One training of the search."""

    number: int
    """Counted from 1."""
    state: State
    settings: Settings
    validation: float | None
    """Best over its epochs; None where it diverged."""
    epochs: int
    curve: tuple[float, ...] = ()
    """The metric after each epoch."""
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Found:
    """What a search ended with."""

    student: Fit
    terms: tuple[DistillationLoss, ...]
    trials: tuple[Trial, ...]
    chosen: int
    """Number of the trial that made the student."""
    wanted: float
    wanted_as: str
    budget: str
    stopped: str

    @property
    def met(self) -> bool:
        return self.student.validation >= self.wanted

    def to_json(self) -> dict[str, Any]:
        """For target.json."""
        return {
            "wanted": self.wanted,
            "wanted_as": self.wanted_as,
            "met": self.met,
            "best": self.student.validation,
            "chosen": self.chosen,
            "budget": self.budget,
            "stopped": self.stopped,
            "trials": [asdict(trial) for trial in self.trials],
        }
