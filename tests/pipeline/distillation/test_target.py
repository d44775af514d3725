"""Training until the student meets its target: what is tried, when it stops, what is left when it is not met."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_training import context_in
from tiny_run import TINY, run_edgestill, write_recipe

from pipeline.distillation.augment import Augment
from pipeline.distillation.losses.hint import Hint
from pipeline.distillation.losses.kd import KD
from pipeline.distillation.losses.loss import DistillationLoss, LayerPair
from pipeline.distillation.optimizer import Optimizer
from pipeline.distillation.search import TargetSearch
from pipeline.distillation.target import Found, Target, applied, own_settings, ranges
from pipeline.distillation.training import Fit, OnEpoch, Training
from pipeline.errors import NotAcceptable

TERMS = (KD(), Hint(pairs=(LayerPair(student="a", teacher="b"),), weight=2.0))
TRAINING = Training(4, 8, Optimizer(learning_rate=0.01), Augment())


def scripted(curves: Sequence[Sequence[float] | None]) -> tuple[list[Any], Callable[..., Fit]]:
    """A training that reaches what it is told, one curve a trial; None diverges."""
    left, asked = list(curves), []

    def train(terms: tuple[DistillationLoss, ...], training: Training, title: str, on_epoch: OnEpoch) -> Fit:
        asked.append((terms, training, title))
        curve = left.pop(0)
        if curve is None:
            raise NotAcceptable(f"{title}: the loss is nan")
        for epoch in range(1, len(curve) + 1):
            if epoch < len(curve) and not on_epoch(curve[:epoch]):
                return fitted(curve[:epoch], True)
        return fitted(curve, False)

    return asked, train


def fitted(curve: Sequence[float], pruned: bool) -> Fit:
    best = max(range(len(curve)), key=lambda index: (curve[index], index)) + 1
    state = {"w": torch.tensor([float(best)])}
    return Fit(state, state, best, tuple({"validation": value} for value in curve), pruned)


def searched(folder: Path, target: dict[str, Any], curves: Sequence[Sequence[float] | None]) -> tuple[Found, list[Any]]:
    asked, train = scripted(curves)
    search = TargetSearch(Target.model_validate(target), 0.95, TERMS, TRAINING, context_in(folder))
    return search.run(train), asked


def test_the_recipes_own_settings_come_first_and_the_first_that_meets_ends_it(tmp_path: Path) -> None:
    found, asked = searched(tmp_path, {"accuracy": 0.9, "trials": 5}, [[0.5, 0.8], [0.7, 0.91]])
    assert (found.met, found.chosen, [trial.state for trial in found.trials]) == (True, 2, ["complete", "met"])
    assert asked[0][:2] == (TERMS, TRAINING)
    assert found.trials[0].settings == own_settings(TERMS, TRAINING)
    assert found.stopped == "met after 2 trials"
    assert found.terms == asked[1][0] != TERMS
    for name, (low, high) in ranges(TERMS, 0.01).items():
        assert low <= found.trials[1].settings[name] <= high


def test_a_target_that_is_not_met_leaves_the_best_student(tmp_path: Path) -> None:
    curves = [[0.5], None, [0.8], [0.6]]
    found, _ = searched(tmp_path, {"points_below_teacher": 5, "trials": 4}, curves)
    assert (found.met, found.chosen, found.student.validation) == (False, 3, 0.8)
    assert [trial.state for trial in found.trials] == ["complete", "failed", "complete", "complete"]
    assert found.trials[1].reason == "trial-2: the loss is nan"
    document = found.to_json()
    assert document["wanted"] == pytest.approx(0.90)
    assert document["wanted_as"] == "5 points below the teacher's 95.00%"
    assert document["stopped"] == "not met within 4 trials"


def test_a_trial_below_the_median_of_the_others_is_ended(tmp_path: Path) -> None:
    good = [[0.6, 0.7, 0.8], [0.5, 0.7, 0.8], [0.5, 0.6, 0.8], [0.4, 0.6, 0.8]]
    found, _ = searched(tmp_path, {"accuracy": 0.99, "trials": 6}, [*good, [0.1, 0.9, 0.9], [0.55, 0.7, 0.7]])
    assert [trial.state for trial in found.trials[4:]] == ["pruned", "complete"]
    assert found.trials[4].epochs == 1


def test_where_every_trial_diverges_there_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(NotAcceptable, match=r"all 2 trials diverged; the last: trial-2: the loss is nan"):
        searched(tmp_path, {"accuracy": 0.9, "trials": 2}, [None, None])


def test_a_search_that_was_killed_goes_on_with_the_trial_that_was_running(tmp_path: Path) -> None:
    curves: list[Sequence[float] | None] = [[0.5], [0.7], [0.6], [0.65], [0.3]]
    whole, _ = searched(tmp_path / "whole", {"accuracy": 0.9, "trials": 5}, curves)
    _, train = scripted(curves)

    def killed(terms: Any, training: Any, title: str, on_epoch: OnEpoch) -> Fit:
        if title == "trial-4":
            raise KeyboardInterrupt
        return train(terms, training, title, on_epoch)

    target = Target(accuracy=0.9, trials=5)
    context = context_in(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        TargetSearch(target, 0.95, TERMS, TRAINING, context).run(killed)
    rest, train = scripted(curves[3:])
    resumed = TargetSearch(target, 0.95, TERMS, TRAINING, context).run(train)
    assert [each[2] for each in rest] == ["trial-4", "trial-5"]
    assert resumed.trials == whole.trials
    assert (resumed.chosen, resumed.student.validation) == (whole.chosen, whole.student.validation)
    assert torch.equal(resumed.student.best["w"], whole.student.best["w"])


def test_settings_are_applied_to_their_own_term() -> None:
    settings = {**own_settings(TERMS, TRAINING), "kd.temperature": 7.0, "hint.weight": 0.5, "learning_rate": 0.3}
    (kd, hint), training = applied(TERMS, TRAINING, settings)
    assert (kd.model_dump()["temperature"], kd.weight, hint.weight) == (7.0, 1.0, 0.5)
    assert training.optimizer.learning_rate == 0.3


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "give either accuracy or points_below_teacher"),
        ({"accuracy": 0.9, "points_below_teacher": 1}, "give either accuracy or points_below_teacher"),
        ({"accuracy": 1.1}, "less than or equal to 1"),
        ({"accuracy": 0.9, "search": {"kd.alpha": (0.9, 0.1)}}, "must rise from at least 0"),
    ],
)
def test_a_target_that_cannot_be_meant_is_refused(target: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Target.model_validate(target)


def test_a_range_for_what_no_term_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target\.search: setting 'kd\.alfa' is unknown; did you mean 'kd\.alpha'\?"):
        Target(accuracy=0.9, search={"kd.alfa": (0.1, 0.9)}).check(TERMS)


def test_a_run_whose_student_misses_its_target_ends_with_1_and_keeps_the_best(tmp_path: Path) -> None:
    text = TINY.replace("epochs = 40", "epochs = 2").replace(
        "[[distill.losses]]", "[distill.target]\naccuracy = 1.0\ntrials = 2\n[[distill.losses]]"
    )
    done = run_edgestill("run", write_recipe(tmp_path, text), "-w", tmp_path / "ws", "--until", "distill")
    assert done.returncode == 1, done.stderr
    assert "target: not met within 2 trials" in done.stderr
    assert (tmp_path / "ws" / "02-distill" / "student.safetensors").exists()
    document = json.loads((tmp_path / "ws" / "02-distill" / "target.json").read_text())
    assert (document["met"], len(document["trials"])) == (False, 2)
