"""Who gets into which split."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.data.splits import SPLITS, SplitShares, split_by_content

# Sizes of classes, and how often each content is repeated.
POPULATIONS = st.lists(st.integers(1, 40), min_size=1, max_size=8)
SEEDS = st.integers(0, 2**32 - 1)


def population(sizes: list[int]) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return [f"{index:05d}" for index in range(len(labels))], labels


@given(POPULATIONS, SEEDS)
def test_every_split_has_its_share_of_all_and_of_each_class_to_within_two(sizes: list[int], seed: int) -> None:
    digests, labels = population(sizes)
    shares = SplitShares()
    splits = np.asarray(split_by_content(digests, labels, shares, seed))
    for name, share in zip(SPLITS, shares.in_order(), strict=True):
        assert abs((splits == name).sum() - share * len(digests)) < 2
        for label, size in enumerate(sizes):
            assert abs((splits[labels == label] == name).sum() - share * size) < 2


def test_small_classes_still_fill_every_split() -> None:
    digests, labels = population([5] * 100)
    counts = Counter(split_by_content(digests, labels, SplitShares(), 0))
    assert counts == {"train": 300, "validation": 50, "calibration": 50, "test": 100}


@given(POPULATIONS, SEEDS)
def test_the_order_of_the_samples_does_not_matter(sizes: list[int], seed: int) -> None:
    digests, labels = population(sizes)
    order = np.random.default_rng(seed).permutation(len(digests))
    straight = split_by_content(digests, labels, SplitShares(), seed)
    mixed = split_by_content([digests[index] for index in order], labels[order], SplitShares(), seed)
    assert mixed == [straight[index] for index in order]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60), SEEDS)
def test_equal_images_are_always_together_whatever_their_labels_and_order(
    samples: list[tuple[int, int]], seed: int
) -> None:
    digests = [str(content) for content, _ in samples]
    labels = np.asarray([label for _, label in samples])
    splits = split_by_content(digests, labels, SplitShares(), seed)
    split_of = dict(zip(digests, splits, strict=True))
    assert splits == [split_of[digest] for digest in digests]
    backwards = split_by_content(digests[::-1], labels[::-1], SplitShares(), seed)
    assert backwards == splits[::-1]


def test_the_seed_alone_decides_who_is_where() -> None:
    digests, labels = population([30, 30])
    assert split_by_content(digests, labels, SplitShares(), 7) == split_by_content(digests, labels, SplitShares(), 7)
    assert split_by_content(digests, labels, SplitShares(), 7) != split_by_content(digests, labels, SplitShares(), 8)


@settings(max_examples=30)
@given(st.lists(st.floats(0.05, 1), min_size=4, max_size=4))
def test_shares_that_sum_to_one_are_taken_and_all_others_refused(raw: list[float]) -> None:
    shares = dict(zip(SPLITS, (value / sum(raw) for value in raw), strict=True))
    assert sum(SplitShares.model_validate(shares).in_order()) == pytest.approx(1)
    with pytest.raises(ValidationError, match="they must sum to 1"):
        SplitShares.model_validate({**shares, "test": shares["test"] / 2})
