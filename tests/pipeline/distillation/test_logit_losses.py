"""The losses on outputs against their formulas, at their minima, in half precision, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from logit_references import (
    CASES,
    LENGTH,
    OUTPUTS,
    PAIRS,
    ClassAndBoxes,
    batch,
    decisions,
    dist,
    divergence,
    dkd,
    kd,
    smoothed,
    softmax,
    standardized_kd,
    student_of,
    supervised,
    teacher_of,
    with_student,
    with_teacher,
)
from pydantic import ValidationError

from pipeline.distillation.losses.dist import DIST
from pipeline.distillation.losses.dkd import DKD
from pipeline.distillation.losses.kd import KD
from pipeline.distillation.losses.label_smoothing import LabelSmoothing
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.mimic import Mimic
from pipeline.distillation.losses.standardized_kd import StandardizedKD, z_scores
from pipeline.distillation.seen import Seen
from pipeline.errors import RecipeError
from pipeline.mistakes import explained, settings_from_toml
from pipeline.tasks import TASKS

SEEDS, TEMPERATURES, ALPHAS = st.integers(0, 10_000), st.floats(0.25, 20), st.floats(0, 1)
WEIGHTS = st.floats(0.1, 10)
SOFT: tuple[DistillationLoss, ...] = (KD(alpha=0), DKD(), DIST(), StandardizedKD(alpha=0), Mimic())
"""What is 0 where student and teacher agree, and nowhere less."""
each_loss_and_task = pytest.mark.parametrize(("name", "task"), PAIRS)
each_soft_loss = pytest.mark.parametrize("loss", SOFT, ids=lambda loss: loss.name)


def value(loss: DistillationLoss, seen: Seen) -> float:
    return loss.value(seen, None).item()


def value_and_gradient(loss: DistillationLoss, seen: Seen) -> tuple[float, torch.Tensor]:
    student = student_of(seen).clone().requires_grad_()
    found = loss.value(with_student(seen, student), None)
    assert found.shape == ()
    (gradient,) = torch.autograd.grad(found, student)
    return found.item(), gradient


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@each_loss_and_task
def test_the_loss_is_its_formula(name: str, task: str, weighted: bool) -> None:
    loss, reference, _ = CASES[name]
    for seed in range(5):
        seen = batch(task, seed, weighted and task != "regression")
        assert value(loss, seen) == pytest.approx(reference(seen), rel=1e-10, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(SEEDS, TEMPERATURES, ALPHAS, WEIGHTS, WEIGHTS)
@example(7351, 0.25, 0.0, 1.0, 1.0)  # a target that is near certain
def test_its_settings_are_those_of_the_formula(seed: int, t: float, alpha: float, beta: float, gamma: float) -> None:
    seen = batch("classification", seed)
    expected = (
        (KD(temperature=t, alpha=alpha), kd(seen, t, alpha)),
        (StandardizedKD(temperature=t, alpha=alpha), standardized_kd(seen, t, alpha)),
        (DKD(temperature=t, alpha=beta, beta=gamma), dkd(seen, t, beta, gamma)),
        (DIST(temperature=t, beta=beta, gamma=gamma), dist(seen, t, beta, gamma)),
        (LabelSmoothing(smoothing=alpha * 0.99), smoothed(seen, alpha * 0.99)),
    )
    for loss, formula in expected:
        assert value(loss, seen) == pytest.approx(formula, rel=1e-7, abs=1e-7), loss


@each_soft_loss
@settings(deadline=None, max_examples=20)
@given(seed=SEEDS)
def test_a_loss_is_zero_where_student_and_teacher_agree_and_nowhere_less(loss: DistillationLoss, seed: int) -> None:
    seen = batch("token-classification", seed)
    found, gradient = value_and_gradient(loss, with_student(seen, teacher_of(seen)))
    assert found == pytest.approx(0, abs=1e-10)
    assert gradient.abs().max() < 1e-8
    assert value(loss, seen) > 0


@pytest.mark.parametrize("loss", [KD(alpha=0.3), StandardizedKD(alpha=0.3)], ids=lambda loss: loss.name)
def test_a_student_that_agrees_with_its_teacher_is_judged_by_the_labels_alone(loss: DistillationLoss) -> None:
    seen = batch("classification", weighted=True)
    agreed = with_student(seen, teacher_of(seen))
    assert value(loss, agreed) == pytest.approx(0.3 * supervised(agreed), rel=1e-12)


def test_smoothed_labels_are_met_best_by_their_own_distribution_at_their_entropy() -> None:
    seen = batch("classification")
    wanted = torch.full_like(student_of(seen), 0.1 / 5)
    wanted[torch.arange(len(wanted)), seen.labels] += 0.9
    found, gradient = value_and_gradient(LabelSmoothing(smoothing=0.1), with_student(seen, wanted.log()))
    assert found == pytest.approx(-(wanted[0] * wanted[0].log()).sum().item(), rel=1e-12)
    assert gradient.abs().max() < 1e-12


@each_loss_and_task
def test_the_gradient_is_the_derivative(name: str, task: str) -> None:
    loss, seen = CASES[name][0], batch(task, weighted=task != "regression")
    student = student_of(seen).requires_grad_()
    assert torch.autograd.gradcheck(lambda outputs: loss.value(with_student(seen, outputs), None), (student,))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", [KD, StandardizedKD, DKD])
def test_the_gradient_is_the_derivative_at_any_temperature_and_alpha(
    kind: type[KD] | type[StandardizedKD] | type[DKD], temperature: float, alpha: float
) -> None:
    loss, seen = kind(temperature=temperature, alpha=alpha), batch("classification")
    student = student_of(seen).requires_grad_()
    assert torch.autograd.gradcheck(lambda outputs: loss.value(with_student(seen, outputs), None), (student,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@each_loss_and_task
def test_half_precision_widened_as_the_trainer_does_stays_finite_and_close(
    name: str, task: str, dtype: torch.dtype
) -> None:
    loss, reference, _ = CASES[name]
    exact = batch(task)
    student, teacher = student_of(exact).to(dtype).requires_grad_(), teacher_of(exact).to(dtype)
    labels = exact.labels.float() if task == "regression" else exact.labels
    seen = replace(with_teacher(with_student(exact, student.float()), teacher.float()), labels=labels)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        found = loss.value(seen, None)
    (gradient,) = torch.autograd.grad(found, student)
    rounded = with_teacher(with_student(exact, student.detach().double()), teacher.double())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(reference(rounded), rel=1e-4, abs=1e-5)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
@each_loss_and_task
def test_logits_that_overflow_a_plain_softmax_give_a_finite_value_and_gradient(
    name: str, task: str, temperature: float
) -> None:
    loss, seen = CASES[name][0], batch(task)
    if "temperature" in type(loss).model_fields:
        loss = loss.model_copy(update={"temperature": temperature})
    for sign in (1, -1):
        student = 1e4 * student_of(seen).float().sign()
        extreme = with_teacher(with_student(seen, student), sign * student.flip(0))
        found, gradient = value_and_gradient(loss, extreme)
        assert np.isfinite(found)
        assert torch.isfinite(gradient).all()


@each_loss_and_task
@pytest.mark.parametrize("times", [2, 3])
def test_a_batch_that_is_repeated_has_the_same_loss(name: str, task: str, times: int) -> None:
    # So for dist: a correlation over the batch does not ask how often each sample stands in it.
    loss, seen = CASES[name][0], batch(task, weighted=task != "regression")

    def repeated(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor] * times)

    more = replace(
        with_teacher(with_student(seen, repeated(student_of(seen))), repeated(teacher_of(seen))),
        labels=repeated(seen.labels),
        mask=None if seen.mask is None else repeated(seen.mask),
    )
    assert value(loss, more) == pytest.approx(value(loss, seen), rel=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_over_samples_says_whether_halves_of_a_batch_average_to_the_whole(name: str) -> None:
    loss, seen = CASES[name][0], batch("classification", seed=1)
    halves = [
        replace(
            with_teacher(with_student(seen, student_of(seen)[part]), teacher_of(seen)[part]), labels=seen.labels[part]
        )
        for part in (slice(0, 2), slice(2, 4))
    ]
    averaged = sum(value(loss, half) for half in halves) / 2
    assert math.isclose(averaged, value(loss, seen), rel_tol=1e-10) is loss.over_samples


# Not mimic's segmentation: it compares outputs with or without labels, and a picture has no padding.
@pytest.mark.parametrize(
    ("name", "task"),
    [(name, "token-classification") for name in CASES] + [(name, "segmentation") for name in CASES if name != "mimic"],
)
def test_padding_and_decisions_without_a_label_do_not_matter(name: str, task: str) -> None:
    loss, seen = CASES[name][0], batch(task)
    left_out = torch.zeros_like(student_of(seen), dtype=torch.bool)
    if task == "segmentation":
        left_out.movedim(1, -1)[seen.labels == 255] = True
    else:
        left_out[seen.labels == -1] = True
    assert left_out.any()
    changed = with_student(seen, student_of(seen).masked_fill(left_out, 50.0))
    changed = with_teacher(changed, teacher_of(seen).masked_fill(left_out, -70.0))
    before, after = value_and_gradient(loss, seen), value_and_gradient(loss, changed)
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    torch.testing.assert_close(after[1], before[1])
    assert (after[1][left_out] == 0).all()


@pytest.mark.parametrize("loss", [*SOFT, LabelSmoothing()], ids=lambda loss: loss.name)
def test_a_batch_that_is_all_padding_costs_nothing(loss: DistillationLoss) -> None:
    seen = batch("token-classification")
    padding = replace(seen, labels=torch.full_like(seen.labels, -1), mask=torch.zeros(len(seen.labels), LENGTH))
    found, gradient = value_and_gradient(loss, padding)
    assert found == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("loss", [StandardizedKD(alpha=0), DIST()], ids=lambda loss: loss.name)
@pytest.mark.parametrize("level", [0.0, 0.1, 1e4])
def test_logits_without_variance_give_a_finite_value_and_no_gradient(loss: DistillationLoss, level: float) -> None:
    seen = batch("classification")
    flat = torch.full_like(student_of(seen), level).float()
    for one_sided in (with_student(seen, flat), with_teacher(with_student(seen, flat), flat)):
        found, gradient = value_and_gradient(loss, one_sided)
        assert np.isfinite(found)
        assert (gradient == 0).all()


@pytest.mark.parametrize("loss", [StandardizedKD(alpha=0), DIST(beta=1, gamma=0)], ids=lambda loss: loss.name)
def test_logits_that_differ_by_rounding_alone_give_no_gradient(loss: DistillationLoss) -> None:
    # Divided by a standard deviation of one last place, their gradient would be of the order of 1e7.
    seen = batch("classification")
    flat = torch.ones_like(student_of(seen)).float()
    flat[:, 0] += torch.finfo(torch.float32).eps
    found, gradient = value_and_gradient(loss, with_student(with_teacher(seen, teacher_of(seen).float()), flat))
    assert np.isfinite(found)
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_a_network_that_diverged_shows_in_the_loss(name: str) -> None:
    seen = batch("classification")
    broken = student_of(seen).clone()
    broken[1, 2] = float("nan")
    assert np.isnan(value(CASES[name][0], with_student(seen, broken)))


def test_z_scores_do_not_depend_on_level_or_scale() -> None:
    logits = student_of(batch("classification"))
    expected = (logits - logits.mean(1, keepdim=True)) / logits.std(1, correction=0, keepdim=True)
    for scale in (1e-200, 1.0, 1e200):
        torch.testing.assert_close(z_scores(scale * (logits + 3), dim=1), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_two_parts_of_dkd_weighted_as_in_kd_are_kd(temperature: float) -> None:
    # Section 3.1: KL = TCKD + (1 - the teacher's probability of the target) * NCKD, for each decision.
    seen = batch("classification", samples=1)
    student, teacher, label = decisions(seen)[0]
    rest = 1 - softmax(teacher, temperature)[label]
    whole = temperature**2 * divergence(softmax(teacher, temperature), softmax(student, temperature))
    assert value(DKD(temperature=temperature, alpha=1, beta=rest), seen) == pytest.approx(whole, rel=1e-12)


def test_the_soft_gradient_tends_to_the_difference_of_centred_logits_at_high_temperature() -> None:
    # Section 2.1 of Hinton et al., times T^2: (z - v) / N for logits of mean zero, averaged over the batch.
    seen = batch("classification")
    student, teacher = (each - each.mean(1, keepdim=True) for each in (student_of(seen), teacher_of(seen)))
    _, gradient = value_and_gradient(KD(temperature=1e4, alpha=0), with_teacher(with_student(seen, student), teacher))
    torch.testing.assert_close(gradient, (student - teacher) / student.numel(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("task", [task for name, task in PAIRS if name == "label_smoothing"])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_smoothed_by_nothing_are_the_labels(task: str, weighted: bool) -> None:
    seen = batch(task, weighted=weighted)
    expected = seen.task.supervised_loss(seen.student, seen.labels, seen.class_weights).item()
    assert value(LabelSmoothing(smoothing=0), seen) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["label_smoothing", "labels"])
def test_a_loss_without_a_teacher_runs_without_one(name: str) -> None:
    loss, reference, tasks = CASES[name]
    assert not loss.needs_teacher
    for task in tasks:
        seen = batch(task)
        assert value(loss, replace(seen, teacher={})) == pytest.approx(reference(seen))


@pytest.mark.parametrize("kind", [KD, StandardizedKD])
def test_what_weighs_nothing_is_not_looked_at(kind: type[KD] | type[StandardizedKD]) -> None:
    seen = batch("classification")
    other_classes = with_teacher(seen, teacher_of(seen)[:, :3])
    assert value(kind(alpha=1), other_classes) == pytest.approx(supervised(seen))
    no_such_class = replace(seen, labels=seen.labels + 100)
    assert value(kind(alpha=0), no_such_class) == value(kind(alpha=0), seen)


@pytest.mark.parametrize(
    ("loss", "task"),
    [(loss, task) for loss in SOFT for task in OUTPUTS if TASKS[task].has_logits or not loss.needs_logits],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_outputs_of_different_shape_are_refused_with_both_shapes(loss: DistillationLoss, task: str) -> None:
    seen = batch(task)
    narrow = with_teacher(seen, teacher_of(seen)[:, :-1])
    shapes = tuple(student_of(seen).shape), tuple(teacher_of(narrow).shape)
    with pytest.raises(RecipeError) as refused:
        loss.value(narrow, None)
    assert f"output '{TASKS[task].outputs[0]}': shape {shapes[0]} of the student" in str(refused.value)
    assert f"does not pair with {shapes[1]} of the teacher" in str(refused.value)
    assert "or take a loss on features, such as hint" in str(refused.value)


def test_standardized_kd_refuses_two_classes_which_would_have_no_gradient() -> None:
    with pytest.raises(RecipeError, match=r"of 2 classes, standardized logits keep only which is larger.* take kd"):
        StandardizedKD().value(batch("multi-label"), None)


def test_dkd_refuses_a_single_class() -> None:
    seen = batch("classification")
    one = with_teacher(with_student(seen, student_of(seen)[:, :1]), teacher_of(seen)[:, :1])
    with pytest.raises(RecipeError, match="dkd: the logits have one class and it takes two or more; take mimic"):
        DKD().value(one, None)


def test_mimic_compares_the_outputs_that_are_named_and_refuses_a_name_that_is_none() -> None:
    seen = batch("regression")
    assert value(Mimic(outputs=("values",)), seen) == value(Mimic(), seen)
    with pytest.raises(RecipeError, match="mimic: output 'value' is unknown; did you mean 'values'"):
        Mimic(outputs=("value",)).value(seen, None)


def test_outputs_beside_the_logits_need_not_pair_for_the_losses_on_logits_but_for_mimic() -> None:
    plain = batch("classification")
    boxes = {"student": torch.ones(4, 7, 4).double(), "teacher": torch.zeros(4, 7, 4).double()}
    seen = replace(
        plain,
        student={**plain.student, "boxes": boxes["student"]},
        teacher={**plain.teacher, "boxes": boxes["teacher"]},
        task=ClassAndBoxes(),
    )
    # The mean of each output's mean: one with many elements does not drown the other.
    assert value(Mimic(), seen) == pytest.approx((value(Mimic(), plain) + 1) / 2)
    assert value(Mimic(outputs=("boxes",)), seen) == pytest.approx(1)
    fewer = replace(seen, teacher={**plain.teacher, "boxes": boxes["teacher"][:, :5]})
    assert value(KD(), fewer) == value(KD(), plain)
    assert value(Mimic(outputs=("logits",)), fewer) == value(Mimic(), plain)
    with pytest.raises(
        RecipeError, match=r"output 'boxes': shape \(4, 7, 4\) of the student.*name the outputs that pair"
    ):
        Mimic().value(fewer, None)


def test_mimic_takes_classes_for_classes_even_where_the_sequence_is_as_long() -> None:
    seen = batch("sequence-classification")
    as_long = replace(seen, mask=torch.zeros_like(student_of(seen)))
    assert value(Mimic(), as_long) == pytest.approx(((student_of(seen) - teacher_of(seen)) ** 2).mean().item())


REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    *(
        (name, {"temperature": temperature}, said)
        for name in ("kd", "dkd", "dist", "standardized_kd")
        for temperature, said in (
            (0.0, "temperature must be greater than 0, found 0.0"),
            (-1.0, "temperature must be greater than 0, found -1.0"),
            (float("nan"), "temperature must be a finite number, found nan"),
            (float("inf"), "temperature must be a finite number, found inf"),
        )
    ),
    *(
        (name, {"alpha": alpha}, said)
        for name in ("kd", "standardized_kd")
        for alpha, said in (
            (-0.1, "alpha must be at least 0, found -0.1"),
            (1.1, "alpha must be at most 1, found 1.1"),
            (float("nan"), "alpha must be"),
        )
    ),
    ("dkd", {"alpha": -1.0}, "alpha must be at least 0, found -1.0"),
    ("dkd", {"beta": float("inf")}, "beta must be a finite number, found inf"),
    ("dkd", {"alpha": 0.0, "beta": 0.0}, "alpha and beta are both 0, so nothing is left of dkd"),
    ("dist", {"gamma": -1.0}, "gamma must be at least 0, found -1.0"),
    ("dist", {"beta": 0.0, "gamma": 0.0}, "beta and gamma are both 0, so nothing is left of dist"),
    ("label_smoothing", {"smoothing": 1.0}, "smoothing must be less than 1, found 1.0"),
    ("label_smoothing", {"smoothing": -0.5}, "smoothing must be at least 0, found -0.5"),
    ("labels", {"alpha": 0.5}, "'alpha' is no key"),
    ("mimic", {"outputs": "values"}, "outputs must be an array, found 'values'"),
)


@pytest.mark.parametrize(("name", "written", "said"), REFUSED, ids=lambda each: str(each)[:40])
def test_a_setting_outside_its_range_is_refused_in_the_recipes_words(
    name: str, written: dict[str, Any], said: str
) -> None:
    kind = type(CASES[name][0])
    with pytest.raises(ValidationError) as refused:
        settings_from_toml(kind, {"name": name, **written})
    assert said in explained(refused.value, "", kind)[0]


@pytest.mark.parametrize("name", CASES)
def test_a_loss_carries_the_name_that_recipes_use_its_formula_and_its_paper(name: str) -> None:
    loss = CASES[name][0]
    assert type(loss).model_fields["name"].default == name
    assert loss.formula.strip()
    assert loss.paper.strip()
    assert loss.trains_outputs
    assert loss.needs_logits is (name not in ("labels", "mimic"))
    assert loss.needs_teacher is (name not in ("labels", "label_smoothing"))
