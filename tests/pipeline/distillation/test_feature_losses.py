"""The losses on intermediate representations, each against its formula written again in numpy and float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from feature_cases import (
    CASES,
    KEY,
    MASK,
    PAIRS,
    QUERY,
    SEEDS,
    Array,
    B,
    attention,
    embedded,
    ends,
    found,
    parameters,
)
from hypothesis import given, settings
from torch import Tensor

from pipeline.distillation.features import Features
from pipeline.distillation.losses import LOSSES
from pipeline.distillation.losses.channel_wise import CWD
from pipeline.distillation.losses.hint import Hint
from pipeline.distillation.losses.loss import LayerPair
from pipeline.distillation.losses.relational import RKD
from pipeline.distillation.seen import Seen
from pipeline.networks import ResidualNetwork


def averaged_down(maps: Array, height: int, width: int) -> Array:
    """(batch, channels, height, width), of sizes that divide."""
    batch, channels, tall, wide = maps.shape
    blocks = maps.reshape(batch, channels, height, tall // height, width, wide // width)
    return np.asarray(blocks.mean(axis=(3, 5)))


def mean_over_tokens(values: Array) -> float:
    """Of (batch, length, channels): of each sample's real tokens, then of samples."""
    means = [values[row][MASK[row].numpy() > 0].mean() if MASK[row].any() else 0.0 for row in range(B)]
    return float(np.mean(means))


def softmax(values: Array) -> Array:
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_hint_is_the_squared_error_behind_its_regressor(seed: int) -> None:
    one = CASES["hint of maps"]
    seen = one.seen(seed)
    learned = one.learned(seen)
    student, teacher = ends(seen)
    own = parameters(learned)
    mapped = np.einsum("oc,bchw->bohw", own["0.weight"][:, :, 0, 0], averaged_down(student, 2, 6))
    expected = ((mapped + own["0.bias"][:, None, None] - teacher) ** 2).mean()
    assert found(one, seen, learned).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["hint of sequences", "hidden states"])
def test_sequences_are_held_against_each_other_on_real_tokens(name: str) -> None:
    one = CASES[name]
    seen = one.seen(0)
    learned = one.learned(seen)
    student, teacher = ends(seen)
    own = parameters(learned)
    expected = mean_over_tokens((student @ own["0.weight"].T + own.get("0.bias", 0) - teacher) ** 2)
    assert found(one, seen, learned).item() == pytest.approx(expected, rel=1e-10)
    assert ("0.bias" in own) == (name == "hint of sequences")


def test_hint_without_adapter_is_the_squared_error() -> None:
    one = CASES["hint without adapter"]
    seen = one.seen(0)
    student, teacher = ends(seen)
    assert one.learned(seen) is None
    expected = ((averaged_down(student, 4, 2) - teacher) ** 2).mean()
    assert found(one, seen, None).item() == pytest.approx(expected, rel=1e-10)


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_attention_transfer_is_the_squared_distance_of_normalised_energies(seed: int) -> None:
    one = CASES["attention transfer"]
    seen = one.seen(seed)
    student, teacher = ends(seen)
    total = 0.0
    for row in range(B):
        sums = [(each**2).sum(axis=1, keepdims=True) for each in (student, teacher)]
        ours, theirs = averaged_down(sums[0], 2, 2)[row].ravel(), sums[1][row].ravel()
        total += ((ours / np.linalg.norm(ours) - theirs / np.linalg.norm(theirs)) ** 2).sum()
    assert found(one, seen, None).item() == pytest.approx(total / B, rel=1e-10)


@pytest.mark.parametrize("name", ["similarity", "similarity of sequences"])
def test_similarity_is_the_distance_of_row_normalised_products(name: str) -> None:
    one = CASES[name]
    seen = one.seen(0)
    products = []
    for features in ends(seen):
        rows = np.array(features)
        if one.mask is not None:
            rows[one.mask.numpy() == 0] = 0
        flat = rows.reshape(B, -1)
        product_ = flat @ flat.T
        norms = np.linalg.norm(product_, axis=1, keepdims=True)
        products.append(product_ / np.where(norms == 0, 1, norms))
    expected = np.linalg.norm(products[0] - products[1]) ** 2 / B**2
    assert found(one, seen, None).item() == pytest.approx(expected, rel=1e-10)


def rkd_reference(student: Array, teacher: Array, distance_weight: float, angle_weight: float) -> float:
    """Equations 6 to 11, means over all pairs and triplets; loops over plain numbers."""
    count = range(len(student))

    def distances(rows: Array) -> Array:
        plain = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
        return np.asarray(plain / plain[plain > 0].mean())

    def cosine(rows: Array, i: int, j: int, k: int) -> float:
        first, second = rows[i] - rows[j], rows[k] - rows[j]
        length = np.linalg.norm(first) * np.linalg.norm(second)
        return float(first @ second / length) if length else 0.0

    apart = np.mean([huber(a - b) for a, b in zip(distances(student).flat, distances(teacher).flat, strict=True)])
    angles = np.mean([huber(cosine(student, *ijk) - cosine(teacher, *ijk)) for ijk in product(count, count, count)])
    return float(distance_weight * apart + angle_weight * angles)


@pytest.mark.parametrize("name", ["rkd", "rkd of sequences"])
@pytest.mark.parametrize(("distance_weight", "angle_weight"), [(25.0, 50.0), (1.0, 0.0), (0.0, 2.0)])
def test_rkd_is_the_huber_loss_of_distances_and_angles(name: str, distance_weight: float, angle_weight: float) -> None:
    one = CASES[name]
    one = replace(one, loss=RKD(pairs=PAIRS, distance_weight=distance_weight, angle_weight=angle_weight))
    seen = one.seen(2)
    student, teacher = (embedded(features, one.mask is not None) for features in ends(seen))
    expected = rkd_reference(student, teacher, distance_weight, angle_weight)
    assert found(one, seen, None).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["cwd of layers", "cwd of outputs"])
def test_cwd_is_the_divergence_of_channels_as_distributions_over_places(name: str) -> None:
    one = CASES[name]
    assert isinstance(one.loss, CWD)
    seen = one.seen(0)
    learned = one.learned(seen)
    temperature = one.loss.temperature
    if one.loss.pairs:
        student, teacher = ends(seen)
        weight = parameters(learned)["0.weight"][:, :, 0, 0]
        student = np.einsum("oc,bchw->bohw", weight, averaged_down(student, 2, 2))
    else:
        assert learned is None
        student, teacher = seen.student["logits"].numpy(), seen.teacher["logits"].numpy()
    channels = teacher.shape[1]
    total = 0.0
    for row, channel in product(range(B), range(channels)):
        wanted, given_ = (
            softmax(teacher[row, channel].ravel() / temperature),
            softmax(student[row, channel].ravel() / temperature),
        )
        total += (wanted * np.log(wanted / given_)).sum()
    expected = temperature**2 / channels * total / B
    assert found(one, seen, learned).item() == pytest.approx(expected, rel=1e-10)


def attention_map(features: Mapping[str, Tensor], row: int, head: int, heads: int, after: bool) -> Array:
    """(real tokens, real tokens)."""
    real = MASK[row].numpy() > 0
    query, key = (np.split(features[name][row].numpy()[real], heads, axis=1)[head] for name in (QUERY, KEY))
    scores = query @ key.T / np.sqrt(query.shape[1])
    return softmax(scores) if after else scores


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_attention_maps_are_recomputed_from_queries_and_keys_of_real_tokens(after: bool, average: bool) -> None:
    one = replace(CASES["attention maps"], loss=attention(softmax=after, average_heads=average))
    seen = one.seen(0)
    means = []
    for row in range(B):
        maps = [
            np.stack([attention_map(features, row, head, 2, after) for head in range(2)])
            for features in (seen.student_features, seen.teacher_features)
            if MASK[row].any()
        ]
        if average:
            maps = [each.mean(axis=0) for each in maps]
        means.append(((maps[0] - maps[1]) ** 2).mean() if maps else 0.0)
    assert found(one, seen, None).item() == pytest.approx(np.mean(means), rel=1e-10)


def test_without_padding_attention_maps_are_whole() -> None:
    one = replace(CASES["attention maps"], mask=None)
    seen = one.seen(0)
    whole = replace(seen, mask=torch.ones_like(MASK))
    assert found(one, seen, None).item() == pytest.approx(found(one, whole, None).item(), rel=1e-12)


MINE = ("hint", "attention_transfer", "similarity", "rkd", "crd", "cwd", "hidden_states", "attention_maps")


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_carries_the_name_that_recipes_use_its_formula_and_its_paper(name: str) -> None:
    assert LOSSES[name].model_fields["name"].default == name
    assert LOSSES[name].formula
    assert LOSSES[name].paper


@pytest.mark.parametrize("name", MINE)
def test_losses_on_layers_leave_the_head_to_another_term(name: str) -> None:
    assert not LOSSES[name].trains_outputs


def test_layers_are_named_once_and_queries_are_marked_as_projections() -> None:
    twice = Hint(pairs=(LayerPair(student="a", teacher="t"), LayerPair(student="a", teacher="u")))
    assert twice.student_layers() == ("a",)
    assert twice.teacher_layers() == ("t", "u")
    assert attention().student_layers() == attention().teacher_layers() == (QUERY, KEY)
    assert CWD().student_layers() == CWD().teacher_layers() == ()


@pytest.mark.parametrize("loss", ["hint", "attention_transfer", "similarity", "rkd", "crd", "cwd"])
def test_a_student_comes_closer_to_its_teachers_layers(loss: str) -> None:
    torch.manual_seed(0)
    student, teacher = ResidualNetwork(1, (4, 6), 10), ResidualNetwork(1, (8, 12), 10)
    images = torch.randn(8, 1, 8, 8)
    term = LOSSES[loss].model_validate({"pairs": [{"student": "stages.1", "teacher": "stages.1"}]})
    with (
        Features(student, term.student_layers(), "student") as ours,
        Features(teacher.eval(), term.teacher_layers(), "teacher") as theirs,
    ):
        blank = CASES["crd"].seen(0)

        def batch() -> Seen:
            with torch.no_grad():
                teacher(images)
            student(images)
            student_features, teacher_features = ours.take(), theirs.take()
            return replace(
                blank,
                rows=torch.arange(8),
                samples=8,
                student_features=student_features,
                teacher_features=teacher_features,
            )

        learned = term.learned(batch())
        trained = [*student.parameters(), *(learned.parameters() if learned is not None else ())]
        assert len({id(each) for each in trained}) == len(trained)
        optimizer = torch.optim.AdamW(trained, lr=3e-3)
        first = copy.deepcopy(student.state_dict())
        values = []
        for _ in range(30):
            value = term.value(batch(), learned)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            values.append(value.item())
    assert values[-1] < values[0]
    assert not torch.equal(student.state_dict()["stem.0.weight"], first["stem.0.weight"])
    assert torch.equal(student.state_dict()["head.weight"], first["head.weight"])
