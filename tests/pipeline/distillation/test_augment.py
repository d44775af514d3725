"""What is done to training images, and to the labels that are images themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.distillation.augment import AffinePlan, Augment

STRONG = Augment(rotate_degrees=40, translate=0.3, zoom=0.3)
ROWS = np.arange(30)


def blobs() -> torch.Tensor:
    """(30, 24, 20) label maps of large one-class areas."""
    coarse = torch.randint(0, 5, (30, 6, 5), generator=torch.Generator().manual_seed(0))
    return coarse.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def test_labels_move_with_their_images() -> None:
    labels, plan = blobs(), AffinePlan(STRONG, seed=3, epoch=1, samples=30)
    moved = plan.apply_labels(labels, ROWS)
    assert (moved.shape, moved.dtype) == (labels.shape, labels.dtype)
    assert not torch.equal(moved, labels)
    for label in range(5):
        image = plan.apply((labels == label).float()[:, None], ROWS)[:, 0]
        # Bilinear and nearest differ at the edges of the areas alone.
        inner = (image < 0.01) | (image > 0.99)
        assert inner.double().mean() > 0.7
        assert torch.equal(moved[inner] == label, image[inner] > 0.5)


def test_labels_are_never_mixed_and_255_stays_255() -> None:
    labels = torch.where(blobs() == 4, 255, blobs())
    moved = AffinePlan(STRONG, seed=0, epoch=0, samples=30).apply_labels(labels, ROWS)
    assert set(moved.flatten().tolist()) <= {0, 1, 2, 3, 255}


def test_what_enters_from_outside_takes_the_label_at_the_edge() -> None:
    labels = torch.full((30, 8, 8), 7)
    moved = AffinePlan(Augment(translate=0.9), seed=0, epoch=0, samples=30).apply_labels(labels, ROWS)
    assert torch.equal(moved, labels)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_labels_keep_their_type_and_their_large_values(dtype: torch.dtype) -> None:
    largest = 2**40 + 1 if dtype is torch.int64 else 200
    labels = torch.full((30, 4, 4), largest, dtype=dtype)
    moved = AffinePlan(STRONG, seed=0, epoch=0, samples=30).apply_labels(labels, ROWS)
    assert torch.equal(moved, labels)
    assert moved.dtype == dtype


def test_without_augmentation_labels_are_left_alone() -> None:
    labels = blobs()
    assert AffinePlan(Augment(), 0, 0, 30).apply_labels(labels, ROWS) is labels
