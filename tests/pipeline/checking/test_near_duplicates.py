"""Images that look the same although their pixels differ."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.checking import near_duplicates as module
from pipeline.checking.near_duplicates import Alike, Thumbnails, near_duplicates
from pipeline.data.splits import SPLITS, SplitShares, split_by_content
from pipeline.samples import digits
from pipeline.tasks import TASKS

Picture = NDArray[np.float32]


def pictures(count: int, channels: int = 3, size: int = 48) -> list[Picture]:
    """Noise of values 0 to 255 at every scale, coloured at the coarse ones, as photographs are."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        whole = np.zeros((channels, size, size))
        for cell in (1, 2, 4, 8, 16):
            colour = random.normal(0, 0.4 * cell, (channels, size // cell, size // cell)) if cell >= 8 else 0.0
            whole += np.kron(random.normal(0, cell, (1, size // cell, size // cell)) + colour, np.ones((cell, cell)))
        found.append((255 * (whole - whole.min()) / np.ptp(whole)).astype(np.float32))
    return found


def found_in(images: list[Picture], training: int) -> list[Alike]:
    """Where the first images are for training and the rest for the test."""
    thumbnails = Thumbnails(len(images))
    for index, image in enumerate(images):
        thumbnails.add(index, image)
    indices = np.arange(len(images))
    return near_duplicates(thumbnails, {"train": indices[:training], "test": indices[training:]}, "train")


def encoded(image: Picture) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8).transpose(1, 2, 0)).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer), np.float32).transpose(2, 0, 1)


def resized(image: Picture) -> Picture:
    smaller = Image.fromarray(image.astype(np.uint8).transpose(1, 2, 0)).resize((40, 40), Image.Resampling.BICUBIC)
    return np.asarray(smaller.resize((48, 48)), np.float32).transpose(2, 0, 1)


@pytest.mark.parametrize("change", [encoded, resized, lambda image: 0.7 * image + 40, lambda image: image])
def test_a_copy_that_was_encoded_resized_or_brightened_is_found(change: object) -> None:
    assert callable(change)
    images = pictures(20)
    found = found_in([*images, change(images[7])], 15)
    assert [(each.index, each.other) for each in found] == [(20, 7)]
    assert 0.995 <= found[0].correlation <= 1.0001


def test_different_images_and_negatives_are_not_alike() -> None:
    images = pictures(200)
    assert found_in([*images, 255 - images[3]], 100) == []


def test_another_colour_of_the_same_shape_is_not_alike() -> None:
    images = pictures(10)
    assert found_in([*images, images[2][::-1].copy()], 10) == []


def test_images_of_the_same_split_are_not_compared() -> None:
    images = pictures(10)
    assert found_in([*images[:5], images[2] + 1, *images[5:], images[6] + 1], 6) == []


def test_flat_images_look_like_nothing() -> None:
    # Of sides that leave rounding in the averages.
    flat = [np.full((1, 50, 37), value, np.float32) for value in (0, 0.1, 1, 255.1, 3e8)]
    assert found_in([*flat, *flat], 5) == []


def test_the_one_that_it_looks_most_like_is_named() -> None:
    images = pictures(6)
    noise = np.random.default_rng(1).normal(0, 8, images[0].shape).astype(np.float32)
    found = found_in([images[0] + noise, images[0], *images[1:], images[0] + 0.2], 7)
    assert [(each.index, each.other) for each in found] == [(7, 1)]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 30), st.randoms(use_true_random=False))
def test_the_size_of_a_block_changes_nothing(block: int, training: int, random: object) -> None:
    images = pictures(16, channels=1, size=16)
    images += [image * 2 for image in images]
    whole = found_in(images, training)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        assert [each.index for each in found_in(images, training)] == [each.index for each in whole]


def test_frames_that_all_look_alike_are_each_found_without_comparing_every_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, noise = pictures(1)[0], np.random.default_rng(0)
    frames = [frame + noise.normal(0, 0.5, frame.shape).astype(np.float32) for _ in range(30)]
    compared: list[int] = []
    whole = Thumbnails.correlations

    def counted(self: Thumbnails, rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
        compared.append(len(rows))
        return whole(self, rows, others)

    monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(Thumbnails, "correlations", counted)
    assert sorted(each.index for each in found_in(frames, 20)) == list(range(20, 30))
    assert max(compared) == 8


def test_of_very_many_images_evenly_chosen_ones_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPARED", 5)
    thumbnails = Thumbnails(12)
    for index, image in enumerate(pictures(12)):
        thumbnails.add(index, image)
    assert (thumbnails.step, thumbnails.indices) == (3, [0, 3, 6, 9])


def test_real_digits_are_not_alike() -> None:
    samples = digits(TASKS["classification"])
    images = [np.asarray(samples.raw(index), np.float32) for index in range(len(samples))]
    splits = np.asarray(split_by_content([image.tobytes().hex() for image in images], samples.labels, SplitShares(), 0))
    thumbnails = Thumbnails(len(images))
    for index, image in enumerate(images):
        thumbnails.add(index, image[None])
    assert near_duplicates(thumbnails, {name: np.flatnonzero(splits == name) for name in SPLITS}, "train") == []
