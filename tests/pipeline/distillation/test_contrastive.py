"""Contrastive distillation: its formula, its least value, and the memory that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from feature_cases import (
    CASES,
    PAIRS,
    SAMPLES,
    SEEDS,
    Array,
    B,
    case,
    embedded,
    ends,
    found,
    made_identical,
    parameters,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.distillation.losses.contrastive import CRD
from pipeline.distillation.losses.memory_bank import MemoryBank
from pipeline.errors import RecipeError


def crd_reference(
    student: Array, teacher: Array, own: Mapping[str, Array], rows: list[int], temperature: float
) -> float:
    """Binary cross-entropy of h = e / (e + K Z / N), every other sample a negative, Z from this batch."""

    def unit(values: Array) -> Array:
        return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))

    total, negatives = 0.0, SAMPLES - 1
    for features, head, memory in ((student, "student", "teacher"), (teacher, "teacher", "student")):
        anchors = unit(features @ own[f"0.{head}_head.weight"].T + own[f"0.{head}_head.bias"])
        scores = np.exp(anchors @ own[f"0.{memory}"].T / temperature)  # (batch, samples)
        offset = negatives * scores.mean()
        h = scores / (scores + offset)
        own_column = np.eye(SAMPLES, dtype=bool)[rows]
        total -= (np.log(h[own_column]).sum() + np.log(1 - h[~own_column]).sum()) / len(rows)
    return float(total)


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_crd_is_noise_contrastive_estimation_against_the_memory(seed: int) -> None:
    one = replace(CASES["crd"], loss=CRD(pairs=PAIRS, dim=3, temperature=0.5))
    seen = one.seen(seed)
    learned = one.learned(seen, seed)
    student, teacher = (embedded(features) for features in ends(seen))
    expected = crd_reference(student, teacher, parameters(learned), seen.rows.tolist(), 0.5)
    assert found(one, seen, learned).item() == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.floats(0.05, 2))
def test_crd_is_least_where_own_embeddings_meet_and_others_are_opposite(seed: int, temperature: float) -> None:
    loss = CRD(pairs=PAIRS, dim=2, temperature=temperature)
    one = case(loss, (2,), (2,))
    seen = replace(one.seen(seed), rows=torch.tensor([0, 1, 1, 0]), samples=2)
    learned = one.learned(seen, seed)
    assert learned is not None
    bank = learned[0]  # type: ignore[index]  # a list, since CRD learns something
    bank.log_mean.zero_()
    least = 2 * (np.log1p(np.exp(-1 / temperature)) + np.log1p(np.exp(-1 / temperature)))
    assert found(one, seen, learned).item() >= least - 1e-9
    made_identical(learned)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    bank.student.copy_(opposite)
    bank.teacher.copy_(opposite)
    best = replace(seen, student_features={"s": 3 * opposite[seen.rows]}, teacher_features={"t": opposite[seen.rows]})
    assert found(one, best, learned).item() == pytest.approx(least, rel=1e-9)


def bank_of(learned: nn.Module | None) -> MemoryBank:
    assert isinstance(learned, nn.ModuleList)
    assert isinstance(learned[0], MemoryBank)
    return learned[0]


def test_crd_moves_the_memory_of_what_it_saw_in_training_mode_alone() -> None:
    one = CASES["crd"]
    seen = one.seen(0)
    learned = one.learned(seen)
    bank = bank_of(learned)
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    found(one, seen, learned)
    assert torch.equal(bank.student, before["student"])
    bank.train()
    one.loss.value(seen, learned)
    unseen = [row for row in range(SAMPLES) if row not in seen.rows.tolist()]
    features = seen.student_features["s"].mean((2, 3))
    embedded_ = nn.functional.normalize(features @ before["student_head.weight"].T + before["student_head.bias"])
    expected = nn.functional.normalize(0.5 * before["student"][seen.rows] + 0.5 * embedded_)
    torch.testing.assert_close(bank.student[seen.rows], expected)
    assert torch.equal(bank.student[unseen], before["student"][unseen])
    assert not torch.equal(bank.teacher[seen.rows], before["teacher"][seen.rows])
    torch.testing.assert_close(bank.teacher.norm(dim=1), torch.ones(SAMPLES, dtype=torch.float64))


def test_crd_goes_on_from_its_state_and_torchs_random_state_to_the_same_bits() -> None:
    one = replace(CASES["crd"], loss=CRD(pairs=PAIRS, dim=3, negatives=3))
    batches = [one.seen(seed) for seed in range(6)]
    learned, resumed = one.learned(batches[0]), one.learned(batches[0], seed=5)
    for seen in batches[:3]:
        one.loss.value(seen, learned)
    assert learned is not None
    assert resumed is not None
    resumed.load_state_dict(learned.state_dict())
    state = torch.get_rng_state()
    values = [one.loss.value(seen, learned).item() for seen in batches[3:]]
    torch.set_rng_state(state)
    assert [one.loss.value(seen, resumed).item() for seen in batches[3:]] == values


def test_crd_estimates_its_constant_on_the_first_batch_and_keeps_it() -> None:
    one = CASES["crd"]
    seen = one.seen(0)
    learned = one.learned(seen)
    bank = bank_of(learned)
    assert bank.log_mean.isnan().all()
    found(one, seen, learned)
    first = bank.log_mean.clone()
    assert first.isfinite().all()
    found(one, one.seen(1), learned)
    assert torch.equal(bank.log_mean, first)


def test_crd_with_some_negatives_is_on_average_that_with_all_scaled() -> None:
    # A sum over K negatives, so its mean over draws is K / (N - 1) of the sum over all, at the same offset.
    one = CASES["crd"]
    seen = one.seen(0)
    bank = bank_of(one.learned(seen)).eval()
    bank.log_mean.zero_()
    student, teacher = (
        value.flatten(2).mean(2) if value.dim() == 4 else value
        for value in (seen.student_features["s"], seen.teacher_features["t"])
    )
    torch.manual_seed(0)
    drawn = [bank.loss(student, teacher, seen.rows, 3, 1.0, 0.5).item() for _ in range(3000)]
    expected = 0.0
    for anchors, memory in ((bank.student_head(student), bank.teacher), (bank.teacher_head(teacher), bank.student)):
        scores = nn.functional.normalize(anchors) @ memory.T - np.log(3)
        own = nn.functional.one_hot(seen.rows, SAMPLES).bool()
        missed = nn.functional.softplus(scores)[~own].sum() * 3 / (SAMPLES - 1)
        expected += ((nn.functional.softplus(-scores)[own].sum() + missed) / B).item()
    assert np.mean(drawn) == pytest.approx(expected, abs=5 * np.std(drawn) / np.sqrt(len(drawn)))
    assert np.std(drawn) > 0


@pytest.mark.parametrize("negatives", [9, 100])
def test_crd_refuses_more_negatives_than_there_are_other_samples(negatives: int) -> None:
    one = replace(CASES["crd"], loss=CRD(pairs=PAIRS, negatives=negatives))
    with pytest.raises(RecipeError) as refusal:
        one.learned(one.seen(0))
    assert f"[distill] crd: negatives = {negatives}, and the training split has 8 other samples" in str(refusal.value)
    assert "lower negatives, or leave it out" in str(refusal.value)


def test_crd_refuses_a_training_split_of_one() -> None:
    one = CASES["crd"]
    with pytest.raises(RecipeError, match="the training split has 0 other samples"):
        one.learned(replace(one.seen(0), samples=1))
