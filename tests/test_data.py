"""The data stage, and the data set that later stages open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_training import IMAGES, arrays, dataset_in, save_npz, splits_in

from pipeline.data import content_digest
from pipeline.errors import DataRejected, IntegrityError
from pipeline.samples import npz
from pipeline.splits import SPLITS

OWN_SPLITS = np.array([*["train"] * 6, "validation", "calibration", "test", "test"] * 6)


def rejected(folder: Path, data: dict[str, NDArray[Any]], **settings: Any) -> str:
    save_npz(folder / "data.npz", data)
    with pytest.raises(DataRejected) as caught:
        splits_in(folder, npz="data.npz", **settings)
    return str(caught.value)


def findings(folder: Path, data: dict[str, NDArray[Any]], **settings: Any) -> list[str]:
    save_npz(folder / "data.npz", data)
    found = splits_in(folder, npz="data.npz", **settings).json("findings.json")
    return [f"{each['severity']}: {each['message']}" for each in found]


def test_every_image_is_in_one_split_and_no_content_in_two(tmp_path: Path) -> None:
    data = arrays()
    data["images"][10:20] = data["images"][0]
    save_npz(tmp_path / "data.npz", data)
    records = splits_in(tmp_path, npz="data.npz").json("splits.json")
    assert [record["id"] for record in records] == [str(index) for index in range(IMAGES)]
    assert {record["split"] for record in records} == set(SPLITS)
    contents = {split: {each["sha256"] for each in records if each["split"] == split} for split in SPLITS}
    assert sum(map(len, contents.values())) == len(set().union(*contents.values())) == IMAGES - 10


def test_splits_depend_on_the_seed_alone(tmp_path: Path) -> None:
    first, second, third = ((tmp_path / name) for name in "abc")
    for folder in (first, second, third):
        folder.mkdir()
    same = [splits_in(folder, seed).path("splits.json").read_bytes() for folder, seed in ((first, 1), (second, 1))]
    assert same[0] == same[1]
    assert splits_in(third, 2).path("splits.json").read_bytes() != same[0]


def test_a_data_set_gives_the_images_that_were_split(tmp_path: Path) -> None:
    data, dataset = arrays(), dataset_in(tmp_path)
    assert dataset.shape == (1, 8, 8)
    assert dataset.classes == ("0", "1", "2")
    together = np.concatenate([dataset.indices(split) for split in SPLITS])
    assert sorted(together) == list(range(IMAGES))
    indices = dataset.indices("test")
    np.testing.assert_array_equal(dataset.images(indices)[:, 0], data["images"][indices])
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
    reopened = replace(dataset, samples=npz(tmp_path / "images.npz"))
    reopened.images([4])
    with pytest.raises(IntegrityError, match="image 5 is not the one that was split: the data changed while it was"):
        reopened.images([5])


def test_equal_pixels_of_another_shape_or_type_are_other_contents() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    others: list[NDArray[Any]] = [
        image.T,
        image.reshape(4, 3),
        image.astype(np.int8),
        image.astype(np.float32),
        image + 1,
    ]
    assert len({content_digest(each) for each in (image, *others)}) == 6
    assert content_digest(np.asfortranarray(image)) == content_digest(image)


@pytest.mark.parametrize("count", [0, 1])
def test_data_of_no_or_one_sample_is_rejected(tmp_path: Path, count: int) -> None:
    message = rejected(tmp_path, {name: array[:count] for name, array in arrays().items()})
    assert message == (f"[data] holds {count} samples; training, validation, calibration and test each need some")


def test_too_few_samples_to_fill_every_split_are_rejected(tmp_path: Path) -> None:
    message = rejected(tmp_path, {name: array[:3] for name, array in arrays().items()})
    assert message == (
        "[data] 3 samples, 3 of them distinct, leave the validation split empty; "
        "add images or give it a larger share in [data] split"
    )


def test_one_image_many_times_is_no_data(tmp_path: Path) -> None:
    data = arrays()
    message = rejected(tmp_path, {**data, "images": np.zeros_like(data["images"])})
    assert message.startswith("[data] 60 samples, 1 of them distinct, leave the validation split empty; ")


def test_images_of_one_class_are_rejected(tmp_path: Path) -> None:
    data = arrays()
    message = rejected(tmp_path, {**data, "labels": np.zeros_like(data["labels"])})
    assert message == "[data] every image has the same label; there is nothing to learn"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    data = arrays()
    data["images"][7, 3, 3] = value
    assert rejected(tmp_path, data) == (
        "[data] image 7 holds NaN or infinite values, or gets them from preprocess.scale, mean and std"
    )


def photos(folder: Path) -> Path:
    """Twenty gray images of 8x8 of two classes."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 8, 8), np.uint8)
    for index, image in enumerate(pixels):
        file = folder / "photos" / ("ant", "bee")[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder / "photos"


def test_images_of_different_sizes_need_a_resize(tmp_path: Path) -> None:
    Image.new("L", (8, 9)).save(photos(tmp_path) / "bee" / "5.png")
    with pytest.raises(DataRejected) as caught:
        splits_in(tmp_path, folder="photos")
    assert str(caught.value) == (
        "[data] image bee/5.png has shape (1, 9, 8) after preprocessing, the ones before it (1, 8, 8); "
        "set [data] preprocess.resize, or resize and crop"
    )
    splits = splits_in(tmp_path, folder="photos", preprocess={"resize": (6, 6)})
    assert splits.json("preprocess.json")["shape"] == [1, 6, 6]
    assert splits.json("preprocess.json")["preprocess"]["layout"] == "hw"


def test_the_same_image_in_two_of_the_users_splits_is_rejected_with_both_named(tmp_path: Path) -> None:
    data = {**arrays(), "splits": OWN_SPLITS}
    data["images"][6] = data["images"][0]
    assert rejected(tmp_path, data) == (
        "[data] the same image stands in two splits: 0 in train and 6 in validation; accuracy on it would mean nothing"
    )


def test_a_split_of_the_users_that_is_empty_is_rejected(tmp_path: Path) -> None:
    splits = np.where(OWN_SPLITS == "calibration", "train", OWN_SPLITS)
    assert rejected(tmp_path, {**arrays(), "splits": splits}) == (
        "[data] 60 samples, 60 of them distinct, leave the calibration split empty; give it images"
    )


def test_the_users_own_splits_are_kept_and_shares_beside_them_said_to_be_unused(tmp_path: Path) -> None:
    save_npz(tmp_path / "data.npz", {**arrays(), "splits": OWN_SPLITS})
    shares = dict.fromkeys(SPLITS, 0.25)
    splits = splits_in(tmp_path, npz="data.npz", split=shares)
    assert [record["split"] for record in splits.json("splits.json")] == OWN_SPLITS.tolist()
    assert splits.json("findings.json")[0] == {
        "severity": "warning",
        "message": "the data brings its own splits; [data] split is not used",
    }


def test_what_a_reader_must_know_of_the_data_is_found(tmp_path: Path) -> None:
    data = arrays()
    data["images"][1] = data["images"][0]
    data["images"] *= 1000
    found = findings(tmp_path, {**data, "classes": np.array(["ant", "bee", "cat", "dog"])})
    assert found[0] == "note: 60 images of 4 classes: train 36, validation 6, calibration 6, test 12"
    assert found[1].startswith("note: after preprocessing the pixels have mean ")
    assert found[2:] == [
        "warning: the pixels are far from unit scale: is [data] preprocess the teacher's own?",
        "warning: 1 images occur more than once; each stays within one split",
        "warning: equal images have different labels: 0, 1",
        "warning: class 'dog' has no training image",
    ]


def test_mean_and_deviation_are_those_of_all_preprocessed_pixels(tmp_path: Path) -> None:
    data = arrays()
    found = findings(tmp_path, data, preprocess={"scale": 2.0, "mean": (1.0,), "std": (4.0,)})
    pixels = (data["images"].astype(np.float64) * 2 - 1) / 4
    assert found[1] == (
        f"note: after preprocessing the pixels have mean {pixels.mean():.3g} and deviation {pixels.std():.3g}"
    )


def test_gray_and_coloured_images_do_not_mix(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(photos(tmp_path) / "bee" / "5.png")
    with pytest.raises(DataRejected) as caught:
        splits_in(tmp_path, folder="photos")
    assert str(caught.value) == (
        "[data] image bee/5.png has shape (8, 8, 3), the layout 'hw' has 2 dimensions; make all images gray or all "
        "RGB, and where it is set, [data] preprocess.layout what they are"
    )


def test_files_left_out_of_a_folder_are_said(tmp_path: Path) -> None:
    folder = photos(tmp_path)
    for index in range(5):
        (folder / "ant" / f"{index}.gif").touch()
    found = splits_in(tmp_path, folder="photos").json("findings.json")[0]["message"]
    assert found == "no images of a class, left out: ant/0.gif, ant/1.gif, ant/2.gif and 2 more"
