"""What a run tells its trackers: nothing of it changes a result, and no tracker that fails ends a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from pipeline.errors import Cancelled
from pipeline.tracking.tracker import Event, State, TrackedTraining, Tracker


class Tracking:
    """All trackers of a run; one that fails is said so once, and asked nothing more."""

    def __init__(self, trackers: Sequence[Tracker] = (), warn: Callable[[str], None] = lambda _: None) -> None:
        self._trackers, self._warn = list(trackers), warn

    @property
    def asked(self) -> bool:
        """Whether there is anyone to tell."""
        return bool(self._trackers)

    def write(self, training: TrackedTraining, events: Sequence[Event]) -> None:
        """All epochs so far; each tracker adds those that it lacks."""
        self._tell(lambda tracker: tracker.write(training, events))

    def end(self, training: TrackedTraining, state: State) -> None:
        """Of this training, in this run."""
        self._tell(lambda tracker: tracker.end(training, state))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                say(tracker)
            except Exception as error:  # a server may fail in any way; hours of training must not
                self._trackers.remove(tracker)
                reason = (str(error).splitlines() or [""])[0]
                self._warn(
                    f"tracking: {tracker.name} failed and is asked nothing more ({type(error).__name__}: {reason}); "
                    "the training goes on, and what is missing there is added when the same command runs again"
                )


@dataclass(frozen=True)
class StageTracking:
    """The same for one stage: it knows which trainings are meant. Without arguments it tells nobody."""

    tracking: Tracking = field(default_factory=Tracking)
    recipe: str = ""
    key: str = ""
    metric: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def but(self, **settings: Any) -> StageTracking:
        """For a training whose settings are not in all the section's."""
        return replace(self, settings={**self.settings, **settings})

    def training(self, title: str) -> LiveTraining:
        """Use it as a context manager, around the training."""
        return LiveTraining(
            self.tracking, TrackedTraining(self.recipe, title, self.key, self.metric, dict(self.settings))
        )

    def replay(self, title: str, events: Sequence[Event]) -> None:
        """A training that was finished before: trackers get what they lack of it."""
        with self.training(title) as training:
            training.write(events)


class LiveTraining:
    """One training while it runs."""

    def __init__(self, tracking: Tracking, training: TrackedTraining) -> None:
        self._tracking, self._training = tracking, training

    def write(self, events: Sequence[Event]) -> None:
        """After each epoch, once its checkpoint is written: all events so far."""
        self._tracking.write(self._training, events)

    def __enter__(self) -> LiveTraining:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del error, traceback
        state: State = "finished" if kind is None else "stopped" if issubclass(kind, Cancelled) else "failed"
        self._tracking.end(self._training, state)
