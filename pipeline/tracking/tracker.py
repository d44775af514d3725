"""The Tracker contract: where the curves of a training can be watched while they grow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

Event = Mapping[str, Any]
"""One epoch, as a line of events.jsonl: epoch from 1, loss, terms, learning_rate, validation."""
State = Literal["finished", "failed", "stopped"]
"""How a training ended: as it should, for a mistake or a divergence, by a signal that it resumes from."""
Setting = str | int | float | bool
KEY_DIGITS = 12
"""Of a stage's key: as many as its folder's name shows."""


@dataclass(frozen=True)
class TrackedTraining:
    """One training. With the same settings and data it is the same one, in whatever run of the pipeline."""

    recipe: str
    title: str
    """teacher, student, baseline, trial-3."""
    key: str
    """Of the stage that trains."""
    metric: str
    """What `validation` is, such as accuracy."""
    settings: Mapping[str, Any]
    """As the recipe nests them."""

    @property
    def name(self) -> str:
        """`student-0f3a5c7e9b1d`: other settings, other name, so that no curve goes on with another's."""
        return f"{self.title}-{self.key[:KEY_DIGITS]}"

    def flat_settings(self) -> dict[str, Setting]:
        """By dotted name, such as `optimizer.learning_rate` and `losses.0.temperature`."""
        return dict(_flat("", self.settings))

    def scalars(self, event: Event) -> dict[str, float]:
        """The numbers of one epoch by name: `loss`, `terms/kd`, `learning_rate`, `validation/accuracy`."""
        return {
            "loss": float(event["loss"]),
            **{f"terms/{name}": float(value) for name, value in event["terms"].items()},
            "learning_rate": float(event["learning_rate"]),
            f"validation/{self.metric}": float(event["validation"]),
        }


class Tracker(ABC):
    """One place that keeps curves; it may fail in any way, and the training goes on all the same."""

    name: ClassVar[str]
    """As `--track` gives it; the extra of edgestill that installs what it needs is called the same."""

    @abstractmethod
    def __init__(self, place: str, recipe: str) -> None:
        """Opens it for a recipe's trainings; raises MachineLacks or RecipeError where that cannot be."""

    @abstractmethod
    def write(self, training: TrackedTraining, events: Sequence[Event]) -> None:
        """Adds those of a training's epochs that are not there yet; `events` are all so far, from the first."""

    @abstractmethod
    def end(self, training: TrackedTraining, state: State) -> None:
        """Nothing more of this training comes in this run; a stopped one goes on in another."""


def _flat(name: str, value: Any) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, str):
        # Where a file lies on this machine is nobody else's business.
        yield name, PurePosixPath(value).name if value.startswith(("/", "~")) else value
    elif isinstance(value, bool | int | float):
        yield name, value
    elif isinstance(value, Sequence) and value:
        if any(isinstance(each, Mapping | list | tuple) for each in value):
            yield from _flat(name, {str(index): each for index, each in enumerate(value)})
        else:
            yield name, ", ".join(str(each) for _, each in _flat("", dict(enumerate(value))))
