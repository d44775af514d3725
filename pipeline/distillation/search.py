"""Trains until the student meets its target, each trial with settings that Optuna draws from what the others found.

Trials are kept in a file of ours, not in Optuna's: a killed search reads it, tells Optuna what was found, and goes on
with the trial that was running.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.context import Context
from pipeline.distillation.checkpoint import read_checkpoint, write_checkpoint
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.target import Found, Settings, State, Target, Train, Trial, applied, own_settings, ranges
from pipeline.distillation.training import Fit, Training
from pipeline.errors import NotAcceptable
from pipeline.files import atomic

if TYPE_CHECKING:
    import optuna

TRIALS, BEST = "trials.json", "best.pt"
STARTUP_TRIALS = 4
"""Before the sampler models what it has seen, and before any trial is pruned."""


class TargetSearch:
    """One search; its files lie among the stage's checkpoints."""

    def __init__(
        self, target: Target, teacher: float, terms: Sequence[DistillationLoss], training: Training, context: Context
    ) -> None:
        self._target, self._teacher, self._terms, self._training = target, teacher, tuple(terms), training
        self._context = context
        self._wanted = target.wanted(teacher)
        self._ranges = {**ranges(terms, training.optimizer.learning_rate), **target.search}
        self._file, self._best_file = context.checkpoints / TRIALS, context.checkpoints / BEST
        self._trials: list[Trial] = []
        self._running: Settings | None = None
        self._earlier_s, self._started_s = 0.0, time.monotonic()
        self._best: tuple[int, Fit] | None = None

    def run(self, train: Train) -> Found:
        """Until the target is met or the budget is spent; raises NotAcceptable where every trial diverged."""
        self._resume()
        self._context.say(f"target: validation {self._context.task.metric} of at least {self._wanted:.2%}")
        while (stopped := self._stopped()) is None:
            self._trial(train)
        if self._best is None:
            raise NotAcceptable(
                f"[distill.target] all {len(self._trials)} trials diverged; the last: {self._trials[-1].reason}"
            )
        number, student = self._best
        terms, _ = applied(self._terms, self._training, self._trials[number - 1].settings)
        self._context.say(f"target: {stopped}; trial {number} is best with {student.validation:.2%}")
        return Found(
            student=student,
            terms=terms,
            trials=tuple(self._trials),
            chosen=number,
            wanted=self._wanted,
            wanted_as=self._target.in_words(self._teacher),
            budget=self._target.budget(),
            stopped=stopped,
        )

    def _stopped(self) -> str | None:
        """Why no further trial is started."""
        if self._trials and self._trials[-1].state == "met":
            return f"met after {len(self._trials)} trials" if len(self._trials) > 1 else "met by the first trial"
        spent_s = self._earlier_s + time.monotonic() - self._started_s
        if len(self._trials) >= self._target.trials:
            return f"not met within {self._target.trials} trials"
        late = self._target.minutes is not None and spent_s > 60 * self._target.minutes and self._running is None
        # Which process is late first must not part them.
        if self._context.world.told(bool(late and self._trials)):
            return f"not met within {self._target.minutes:g} minutes"
        return None

    def _trial(self, train: Train) -> None:
        number = len(self._trials) + 1
        settings = self._context.world.told(self._running or self._drawn(number))
        self._running = settings
        self._save()
        self._context.say(f"trial {number}: " + ", ".join(f"{name} {value:.4g}" for name, value in settings.items()))
        terms, training = applied(self._terms, self._training, settings)
        curve: tuple[float, ...] = ()

        def on_epoch(metrics: Sequence[float]) -> bool:
            nonlocal curve
            curve = tuple(metrics)
            return not self._context.world.told(self._hopeless(curve))

        try:
            student = train(terms, training, f"trial-{number}", on_epoch)
        except NotAcceptable as error:
            self._close(Trial(number, "failed", settings, None, len(curve), curve, str(error)), None)
            return
        state: State = "pruned" if student.pruned else "met" if student.validation >= self._wanted else "complete"
        whole = tuple(float(event["validation"]) for event in student.events)
        self._close(Trial(number, state, settings, student.validation, len(whole), whole), student)

    def _close(self, trial: Trial, student: Fit | None) -> None:
        if student is not None and (self._best is None or student.validation > self._best[1].validation):
            self._best = trial.number, student
            if self._context.world.leads:
                write_checkpoint(self._best_file, {"number": trial.number, **asdict(student)})
        self._trials.append(trial)
        self._running = None
        self._save()
        if self._context.world.leads:
            atomic.remove(self._context.checkpoints / f"trial-{trial.number}.pt")

    def _hopeless(self, curve: Sequence[float]) -> bool:
        """Whether the best so far is below the median of what other trials had reached by this epoch.

        The median rule of Golovin et al., "Google Vizier", KDD 2017, section 3.2.2; a student that already meets the
        target is never hopeless.
        """
        if max(curve) >= self._wanted or len(self._trials) < STARTUP_TRIALS:
            return False
        epoch = len(curve)
        reached = sorted(max(other.curve[:epoch]) for other in self._trials if len(other.curve) >= epoch)
        return len(reached) >= STARTUP_TRIALS and max(curve) < reached[len(reached) // 2]

    def _drawn(self, number: int) -> Settings:
        """The recipe's own settings first, then what the sampler suggests; the same for the same trials before it."""
        if number == 1:
            return own_settings(self._terms, self._training)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        distributions = {name: _distribution(name, *limits) for name, limits in self._ranges.items()}
        sampler = optuna.samplers.TPESampler(seed=self._context.seed + number, n_startup_trials=STARTUP_TRIALS)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(list(self._told(distributions)))
        return {name: float(value) for name, value in study.ask(distributions).params.items()}

    def _told(self, distributions: Mapping[str, Any]) -> Iterator[optuna.trial.FrozenTrial]:
        import optuna

        for trial in self._trials:
            # The recipe's own settings may lie outside the ranges: Optuna is shown the nearest that does not.
            params = {
                name: min(max(trial.settings[name], distributions[name].low), distributions[name].high)
                for name in distributions
            }
            failed = trial.validation is None
            yield optuna.create_trial(
                params=params,
                distributions=dict(distributions),
                value=None if failed else trial.validation,
                state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
            )

    def _save(self) -> None:
        if not self._context.world.leads:
            return
        document = {
            "trials": [asdict(trial) for trial in self._trials],
            "running": self._running,
            "seconds": self._earlier_s + time.monotonic() - self._started_s,
        }
        atomic.write_json(self._file, document)

    def _resume(self) -> None:
        try:
            document = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        self._trials = [_trial(each) for each in document["trials"]]
        self._running, self._earlier_s = document["running"], float(document["seconds"])
        best = read_checkpoint(self._best_file)
        if best is not None:
            number = best.pop("number")
            self._best = number, Fit(**best)
        if self._trials:
            self._context.say(f"target: resumed after {len(self._trials)} trials")


def _trial(document: Mapping[str, Any]) -> Trial:
    return Trial(**{**document, "curve": tuple(document["curve"])})


def _distribution(name: str, low: float, high: float) -> Any:
    import optuna

    # What scales is drawn by its magnitude; a share is not.
    return optuna.distributions.FloatDistribution(low, high, log=low > 0 and not name.endswith(".alpha"))
