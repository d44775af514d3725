"""The adapters that are built from what layers gave, and what makes features comparable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.distillation.adapters import adapter, embedding, mean_over_batch, same_size
from pipeline.distillation.losses.feature_loss import MAPS, FeaturePair
from pipeline.errors import RecipeError


def pair(student: tuple[int, ...], teacher: tuple[int, ...]) -> FeaturePair:
    return FeaturePair("hint", "stem", "trunk", torch.randn(student), torch.randn(teacher))


@pytest.mark.parametrize(
    ("student", "teacher", "kind"),
    [
        ((2, 3, 4, 4), (2, 5, 8, 8), nn.Conv2d),
        ((2, 6, 3), (2, 6, 5), nn.Linear),
        ((2, 3), (2, 5), nn.Linear),
        ((2, 5), (2, 5), nn.Linear),
    ],
)
def test_an_adapter_maps_the_students_channels_to_the_teachers(
    student: tuple[int, ...], teacher: tuple[int, ...], kind: type[nn.Module]
) -> None:
    ends = pair(student, teacher)
    made = adapter(ends, bias=True)
    assert isinstance(made, kind)
    axis = 1 if len(student) == MAPS else -1
    expected = list(student)
    expected[axis] = teacher[axis]
    assert list(made(ends.student).shape) == expected


def test_an_adapter_is_drawn_from_torchs_random_state_and_follows_the_students_dtype() -> None:
    ends = pair((2, 3), (2, 5))
    ends = ends.with_tensors(ends.student.double(), ends.teacher.double())
    torch.manual_seed(7)
    first, other = adapter(ends, bias=False), adapter(ends, bias=False)
    torch.manual_seed(7)
    again = adapter(ends, bias=False)
    assert torch.equal(first.get_parameter("weight"), again.get_parameter("weight"))
    assert not torch.equal(first.get_parameter("weight"), other.get_parameter("weight"))
    assert first.get_parameter("weight").dtype == torch.float64
    assert list(first.state_dict()) == ["weight"]


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        ((2, 3, 4, 4), (2, 5), r"nothing bridges these; name two layers that both give \(batch, channels\) or"),
        ((2, 3, 4), (2, 5, 4), "sequences of unequal length"),
        ((2, 3), (4, 3), "name layers whose first axis is the batch"),
        ((2, 3, 4, 4, 4), (2, 3, 4, 4, 4), r"name layers that give \(batch, channels\) or \(batch, length, channels\)"),
        ((2,), (2,), "name layers that give"),
    ],
)
def test_shapes_that_no_adapter_bridges_are_refused_with_both(
    student: tuple[int, ...], teacher: tuple[int, ...], said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as refusal:
        adapter(pair(student, teacher), bias=True)
    assert f"[distill] hint: student layer 'stem' gives {student}, teacher layer 'trunk' gives {teacher}; " in str(
        refusal.value
    )


def test_a_mask_of_another_length_than_the_sequences_is_refused() -> None:
    ends = FeaturePair("hint", "a", "b", torch.ones(2, 5, 3), torch.ones(2, 5, 3), torch.ones(2, 4))
    with pytest.raises(
        RecipeError, match=r"the padding's mask is \(2, 4\), so name layers that give a vector for each"
    ):
        adapter(ends, bias=True)


def test_the_larger_map_is_averaged_down_to_the_smaller_on_each_axis() -> None:
    ends = pair((2, 3, 8, 2), (2, 5, 4, 4))
    pooled = same_size(ends)
    assert pooled.student.shape == (2, 3, 4, 2)
    assert pooled.teacher.shape == (2, 5, 4, 2)
    torch.testing.assert_close(pooled.student, ends.student.reshape(2, 3, 4, 2, 2).mean(3))
    torch.testing.assert_close(pooled.teacher, ends.teacher.reshape(2, 5, 4, 2, 2).mean(4))
    vectors = pair((2, 3), (2, 5))
    assert same_size(vectors) is vectors


def test_an_embedding_averages_places_and_real_tokens() -> None:
    maps, tokens = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(embedding(maps, mask), maps.mean((2, 3)))
    torch.testing.assert_close(embedding(tokens, None), tokens.mean(1))
    torch.testing.assert_close(embedding(tokens, mask), torch.stack([tokens[0, :2].mean(0), torch.zeros(3)]))
    assert torch.equal(embedding(maps[:, :, 0, 0], mask), maps[:, :, 0, 0])


def test_padding_counts_nowhere_and_every_sample_weighs_the_same() -> None:
    values = torch.arange(16.0).reshape(2, 4, 2)
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]])
    expected = (values[0, :1].mean() + values[1, :3].mean()) / 2
    torch.testing.assert_close(mean_over_batch(values, mask), expected)
    halves = [mean_over_batch(values[i : i + 1], mask[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(sum(halves) / 2, expected)
    torch.testing.assert_close(mean_over_batch(values, None), values.mean())
    maps = values[:, None]
    torch.testing.assert_close(mean_over_batch(maps, mask), values.mean())
