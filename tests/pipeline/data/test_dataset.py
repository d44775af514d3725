"""The data set that stages open: batches of the samples that were split, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_training import (
    AXES,
    IMAGES,
    SEQUENCES,
    arrays,
    context_in,
    dataset_in,
    save_npz,
    scenes,
    sequences,
    splits_in,
)

from pipeline.artifact import Splits
from pipeline.data.content_digest import content_digest
from pipeline.data.dataset import open_dataset, read_interface
from pipeline.data.splits import SPLITS
from pipeline.errors import IntegrityError
from pipeline.models.interface import InputSpec
from pipeline.samples import npz
from pipeline.tasks import TASKS


def test_a_data_set_gives_the_images_that_were_split(tmp_path: Path) -> None:
    data, dataset = arrays(), dataset_in(tmp_path)
    assert dataset.interface.inputs == (InputSpec("input", "float32", (1, 8, 8), ("channels", "height", "width")),)
    assert dataset.interface.outputs == {"logits": (3,)}
    assert dataset.classes == ("0", "1", "2")
    together = np.concatenate([dataset.indices(split) for split in SPLITS])
    assert sorted(together) == list(range(IMAGES))
    indices = dataset.indices("test")
    np.testing.assert_array_equal(dataset.inputs(indices)["input"][:, 0], data["images"][indices])
    np.testing.assert_array_equal(dataset.labels(indices), data["labels"][indices])
    assert dataset.ids(indices) == [str(index) for index in indices]


def test_batches_cover_a_split_in_order_the_last_may_be_smaller(tmp_path: Path) -> None:
    dataset = dataset_in(tmp_path)
    batches = list(dataset.batches("train", 7))
    assert [len(batch) for batch in batches] == [7] * 5 + [1]
    np.testing.assert_array_equal(np.concatenate(batches), dataset.indices("train"))


def test_an_image_that_changed_since_it_was_split_is_not_used(tmp_path: Path) -> None:
    dataset = dataset_in(tmp_path)
    data = arrays()
    data["images"][5, 0, 0] += 1
    save_npz(tmp_path / "images.npz", data)
    reopened = replace(dataset, samples=npz(tmp_path / "images.npz", TASKS["classification"]))
    reopened.inputs([4])
    with pytest.raises(IntegrityError, match="image 5 is not the one that was split: the data changed while it was"):
        reopened.inputs([5])


def test_several_inputs_are_fed_as_they_are_in_the_recipes_order(tmp_path: Path) -> None:
    data = sequences()
    save_npz(tmp_path / "data.npz", data)
    dataset = dataset_in(tmp_path, **SEQUENCES)
    assert dataset.interface.inputs == (
        InputSpec("tokens", "int64", (6,), ("length",)),
        InputSpec("rows", "float32", (6, 5), ("length", "features")),
        InputSpec("mask", "float32", (6,), ("length",)),
    )
    assert dataset.interface.axes() == {"length": 6, "features": 5}
    assert dataset.interface.outputs == {"logits": (2,)}
    indices = dataset.indices("test")
    found = dataset.inputs(indices)
    assert list(found) == list(AXES)
    for name, array in found.items():
        np.testing.assert_array_equal(array, data[name][indices], strict=True)
    np.testing.assert_array_equal(dataset.labels(indices), data["labels"][indices])


def test_a_sample_of_several_inputs_that_changed_is_not_used(tmp_path: Path) -> None:
    data = sequences()
    save_npz(tmp_path / "data.npz", data)
    splits_in(tmp_path, **SEQUENCES)
    data["mask"][7, 0] = 0
    save_npz(tmp_path / "data.npz", data)
    dataset = open_dataset(Splits(tmp_path / "splits"), context_in(tmp_path, task="sequence-classification"))
    dataset.inputs([6])
    with pytest.raises(IntegrityError, match=r"sample 7 is not the one that was split: .* makes other samples each"):
        dataset.inputs([7])


def test_label_maps_follow_the_resize_and_the_crop_of_their_images(tmp_path: Path) -> None:
    save_npz(tmp_path / "data.npz", scenes())
    sized = {"resize": (16, 12), "crop": (10, 4)}
    dataset = dataset_in(tmp_path, task="segmentation", npz="data.npz", preprocess=sized)
    indices = dataset.indices("train")
    labels, images = dataset.labels(indices), dataset.inputs(indices)["input"][:, 0]
    assert labels.shape == images.shape == (24, 10, 4)
    assert dataset.interface.outputs == {"logits": (2, 10, 4)}
    expected = scenes()["labels"].repeat(2, axis=1).repeat(2, axis=2)[indices, 3:13, 4:8]
    np.testing.assert_array_equal(labels, expected)
    # The bilinear image is nearer to its own pixel than to the next one everywhere.
    assert ((images > 0.5) == labels).mean() > 0.95


def test_a_label_map_is_recorded_and_verified_by_its_digest(tmp_path: Path) -> None:
    data = scenes()
    save_npz(tmp_path / "data.npz", data)
    records = splits_in(tmp_path, task="segmentation", npz="data.npz").json("splits.json")
    assert records[3]["label"] == content_digest(data["labels"][3])
    data["labels"][3, 0, 0] ^= 1
    save_npz(tmp_path / "data.npz", data)
    dataset = open_dataset(Splits(tmp_path / "splits"), context_in(tmp_path, task="segmentation"))
    with pytest.raises(IntegrityError, match="the label of image 3 is not the one that was split"):
        dataset.labels([0])


def test_a_class_that_changed_since_the_split_is_noticed(tmp_path: Path) -> None:
    splits, data = splits_in(tmp_path), arrays()
    assert splits.json("splits.json")[4]["label"] == 1
    data["labels"][4] = 2
    save_npz(tmp_path / "images.npz", data)
    with pytest.raises(IntegrityError, match="the label of image 4 is not the one that was split"):
        open_dataset(splits, context_in(tmp_path)).labels([4])


def test_the_interface_is_read_without_the_data(tmp_path: Path) -> None:
    dataset = dataset_in(tmp_path)
    (tmp_path / "images.npz").unlink()
    assert read_interface(Splits(tmp_path / "splits"), context_in(tmp_path)) == dataset.interface


@pytest.mark.parametrize("kept", [1 << 30, 0])
def test_images_are_the_same_whether_kept_or_made_anew(
    tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.dataset.KEPT_BYTES", kept)
    dataset, data = dataset_in(tmp_path), arrays()["images"]
    for indices in ([3, 1, 3], [1, 59], [59]):
        np.testing.assert_array_equal(dataset.inputs(indices)["input"][:, 0], data[indices])
    # What is kept is not read again, and what is not kept is verified each time.
    changed = arrays()
    changed["images"][3] += 1
    save_npz(tmp_path / "images.npz", changed)
    dataset.samples = npz(tmp_path / "images.npz", TASKS["classification"])
    if kept:
        np.testing.assert_array_equal(dataset.inputs([3])["input"][0, 0], data[3])
    else:
        with pytest.raises(IntegrityError, match="image 3 is not the one that was split"):
            dataset.inputs([3])
