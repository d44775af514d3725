"""`[calibrate.budget]`: the placement with the most INT8 whose loss stays within what was allowed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from pipeline.errors import MeasurementInvalid, RecipeError
from pipeline.names import unknown
from pipeline.process.progress import Progress
from pipeline.quantizing.judging.evaluation import Evaluation
from pipeline.quantizing.judging.yardstick import JudgingData, Yardstick
from pipeline.quantizing.sensitivity.layer_costs import Judge, LayerCosts, Spared, Subject, in_words
from pipeline.tasks.intervals import samples_to_show, unchanged_bound

POINTS = 100
"""In a share of 1."""


class Budget(BaseModel):
    """`[calibrate.budget]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: Annotated[float, Field(gt=0, le=100)] | None = None
    """The most percentage points of the task's metric that a graph may lose against FP32 on the validation split."""
    min_sqnr_db: Annotated[float, Field(gt=0, le=100)] | None = None
    """The least signal over quantization noise at the output, in dB."""
    decide_by: Literal["estimate", "bound"] = "estimate"
    """Whether the drop that was found must be within, or the upper end of its 95 % interval too."""
    min_int8_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The least share of the multiply-adds in INT8; a placement with less is no solution."""
    placements: PositiveInt = 40
    """The most placements that are tried in each family."""
    latencies: str | None = None
    """A JSON file of measured layer latencies: the lowest sum is wanted then, not the largest share."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> Budget:
        if self.max_drop is None and self.min_sqnr_db is None:
            raise ValueError("give max_drop, min_sqnr_db, or both")
        return self

    def check(self, data: JudgingData, yardstick: Yardstick | None) -> None:
        """Raises MeasurementInvalid where the samples cannot show what is asked, whatever the answers."""
        if self.max_drop is None or self.decide_by == "estimate" or yardstick is None or not yardstick.counts_samples:
            return
        if (least := unchanged_bound(data.samples) * POINTS) > self.max_drop:
            raise MeasurementInvalid(
                f"max_drop = {self.max_drop:g} by the bound: the {data.called} has {data.samples} samples, which leave "
                f"{least:.2f} points open even where no answer changes; it takes "
                f'{samples_to_show(self.max_drop / POINTS)}, or decide_by = "estimate"'
            )

    def holds(self, evaluation: Evaluation) -> bool:
        """Whether a graph is within."""
        if self.min_sqnr_db is not None and evaluation.sqnr_db < self.min_sqnr_db:
            return False
        if self.max_drop is None or evaluation.drop is None:
            return True
        found = evaluation.drop.value if self.decide_by == "estimate" else evaluation.drop.high
        return found <= self.max_drop / POINTS + 1e-12

    def in_words(self, metric: str | None) -> str:
        """Such as `accuracy at most 0.3 points below FP32's`."""
        parts = []
        if self.max_drop is not None:
            by = "" if self.decide_by == "estimate" else ", by the upper end of the interval"
            points = "1 point" if self.max_drop == 1 else f"{self.max_drop:g} points"
            parts.append(f"{metric} at most {points} below FP32's{by}")
        if self.min_sqnr_db is not None:
            parts.append(f"output SQNR at least {self.min_sqnr_db:g} dB")
        if self.min_int8_share is not None:
            parts.append(f"at least {self.min_int8_share:.0%} of the multiply-adds in INT8")
        return ", ".join(parts)


def budget_from_options(max_drop: float | None, min_sqnr: float | None, latencies: Path | None) -> Budget | None:
    """Of a command line; None where none was asked for. Raises RecipeError."""
    if max_drop is None and min_sqnr is None:
        if latencies is not None:
            raise RecipeError("--latencies is for a budget: give --max-drop or --min-sqnr with it")
        return None
    for option, value in (("--max-drop", max_drop), ("--min-sqnr", min_sqnr)):
        if value is not None and not 0 < value <= 100:
            unit = "percentage points" if option == "--max-drop" else "dB"
            raise RecipeError(f"{option} {value:g}: give {unit} above 0, at most 100")
    return Budget(max_drop=max_drop, min_sqnr_db=min_sqnr, latencies=None if latencies is None else str(latencies))


@dataclass(frozen=True)
class Trial:
    """A placement that was tried."""

    spared: Spared
    int8_share: float
    saved_ms: float | None
    """Against float, where latencies were given."""
    evaluation: Evaluation
    within: bool


@dataclass(frozen=True)
class Choice:
    """What the search ended with."""

    trials: tuple[Trial, ...]
    chosen: Trial
    met: bool
    why: str
    """In one sentence."""
    reasons: Mapping[str, str]
    """Of each spared layer."""


Latencies = Mapping[str, tuple[float, float]]
"""(in float, in INT8), milliseconds, by node."""


def latencies_from_json(path: Path, where: str, families: Sequence[str]) -> Mapping[str, Latencies]:
    """By family, {"cpu": {"node_conv": {"float_ms": 0.12, "int8_ms": 0.05}}}; raises RecipeError for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {
            str(family): {
                str(node): (_milliseconds(entry["float_ms"]), _milliseconds(entry["int8_ms"]))
                for node, entry in nodes.items()
            }
            for family, nodes in document.items()
        }
    except OSError as error:
        raise RecipeError(f"{where} '{path}' cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f'{where} \'{path}\' is not {{"family": {{"node": {{"float_ms": …, "int8_ms": …}}}}}} ({error!r})'
        ) from error
    for family in found:
        if family not in families:
            raise RecipeError(f"{where} '{path}': {unknown('family', family, families)}")
    return found


def _milliseconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no time in milliseconds")
    return float(value)


def searched(
    subject: Subject, judge: Judge, costs: LayerCosts, budget: Budget, latencies: Latencies | None, progress: Progress
) -> Choice:
    """Tries placements until none is left that could be better, or their number is reached."""
    from calibration.budget import Costs, Judged, search

    nodes = [layer.node for layer in subject.candidates]
    wins = {layer.node: float(layer.multiply_adds) for layer in subject.candidates}
    if latencies is not None:
        _check_latencies(latencies, subject)
        wins = {node: latencies[node][0] - latencies[node][1] for node in nodes}
    trials: dict[Spared, Trial] = {}
    with progress.phase(f"{subject.family}: placements", budget.placements) as phase:

        def judged(spared: Spared) -> Judged:
            saved_ms = None if latencies is None else sum(wins[node] for node in nodes if node not in spared)
            evaluation = judge.of(spared)
            share = subject.share(spared)
            within = budget.holds(evaluation) and share >= (budget.min_int8_share or 0.0) - 1e-12
            trials[spared] = Trial(spared, share, saved_ms, evaluation, within)
            phase.advance(figures=f"{share:.0%} INT8: {in_words(evaluation, judge.metric)}")
            value = share if saved_ms is None else saved_ms
            return Judged(spared, within, value, _closeness(evaluation, share, budget))

        groups = {layer.node: layer.group for layer in subject.candidates}
        found = search(Costs(costs.noise(nodes), wins, groups), judged, budget.placements)
    chosen = trials[found.spared]
    return Choice(
        tuple(trials.values()),
        chosen,
        found.within,
        _why(chosen, found.within, budget, judge),
        {node: _reason(node, costs, budget, judge, wins) for node in sorted(chosen.spared)},
    )


def _closeness(evaluation: Evaluation, share: float, budget: Budget) -> tuple[float, ...]:
    enough = share >= (budget.min_int8_share or 0.0) - 1e-12
    drop = 0.0 if evaluation.drop is None else evaluation.drop.value
    return (float(enough), -drop if budget.max_drop is not None else 0.0, evaluation.sqnr_db)


def _check_latencies(latencies: Latencies, subject: Subject) -> None:
    from calibration.errors import CalibrationError
    from calibration.layers import checked_names

    try:
        checked_names(latencies, subject.layers, f"latencies of family '{subject.family}'")
    except CalibrationError as error:
        raise RecipeError(str(error)) from error
    if missing := [layer.node for layer in subject.candidates if layer.node not in latencies]:
        raise RecipeError(
            f"latencies of family '{subject.family}' lack layer '{missing[0]}'"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; give float_ms and int8_ms of every layer that could run in INT8"
        )


def _why(chosen: Trial, met: bool, budget: Budget, judge: Judge) -> str:
    found = f"{chosen.int8_share:.1%} of the multiply-adds in INT8, {in_words(chosen.evaluation, judge.metric)}"
    if not met:
        return f"no placement that was tried keeps {budget.in_words(judge.metric)}; the closest has {found}"
    return f"{found}{unsure(chosen.evaluation, budget)}"


def unsure(evaluation: Evaluation, budget: Budget) -> str:
    """What the samples leave open, where they do."""
    drop = evaluation.drop
    if budget.max_drop is None or drop is None or drop.high <= budget.max_drop / POINTS:
        return ""
    return (
        f"; inconclusive: {drop.n} samples leave a drop of up to {drop.high * POINTS:.2f} points open, and at least "
        f"{samples_to_show(budget.max_drop / POINTS)} are needed to show {budget.max_drop:g}"
    )


def _reason(node: str, costs: LayerCosts, budget: Budget, judge: Judge, wins: Mapping[str, float]) -> str:
    if wins[node] <= 0:
        return f"measured no slower in float: INT8 would cost {-wins[node]:.4g} ms"
    alone = costs.only.get((node,))
    cost = (
        f"alone in INT8 it gives {in_words(alone, judge.metric)}"
        if alone is not None
        else f"its own result has an SQNR of {costs.local_sqnr_db[node]:.1f} dB"
    )
    return f"spared for the budget ({budget.in_words(judge.metric)}): {cost}"
