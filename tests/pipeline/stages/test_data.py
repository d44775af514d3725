"""The data stage: who gets into which split, and data that it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_training import IMAGES, arrays, dataset_in, save_npz, scenes, splits_in

from pipeline.artifact import Splits
from pipeline.data.source import Source
from pipeline.data.splits import SPLITS
from pipeline.errors import DataRejected, RecipeError
from pipeline.tasks.classification import OneOfSeveral

OWN_SPLITS = np.array([*["train"] * 6, "validation", "calibration", "test", "test"] * 6)


def rejected(folder: Path, data: Mapping[str, Any], error: type[Exception] = DataRejected, **settings: Any) -> str:
    save_npz(folder / "data.npz", data)
    with pytest.raises(error) as caught:
        splits_in(folder, npz="data.npz", **settings)
    return str(caught.value)


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


def test_all_images_that_cannot_be_used_are_counted_and_some_named(tmp_path: Path) -> None:
    folder = photos(tmp_path)
    for index in (4, 7, 9, 12, 15):
        (folder / ("ant", "bee")[index % 2] / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(DataRejected) as caught:
        splits_in(tmp_path, folder="photos")
    assert str(caught.value).startswith(f"{folder}/ant/12.png: cannot be decoded (")
    assert str(caught.value).endswith("(4 more cannot be used: ant/4.png, bee/15.png, bee/7.png, …)")


def test_what_is_wrong_with_every_image_is_said_once(tmp_path: Path) -> None:
    assert rejected(tmp_path, arrays(), preprocess={"crop": (9, 9)}) == (
        "[data] image 0 is 8x8, preprocess.crop is 9x9; set preprocess.resize, which comes first"
    )


def test_a_label_map_of_another_size_than_its_image_is_rejected(tmp_path: Path) -> None:
    data = {"images": scenes()["images"], "labels": scenes(8, 8)["labels"]}
    assert rejected(tmp_path, data, task="segmentation") == (
        "[data] image 0 is 8x6 and its label 8x8; give each pixel a label"
    )


def test_a_task_that_does_not_take_such_inputs_says_so(tmp_path: Path) -> None:
    inputs = {"inputs": {"images": ("height", "width")}}
    message = rejected(tmp_path, scenes(), RecipeError, task="segmentation", **inputs)
    assert message.startswith("[data] the task 'segmentation' does not take inputs 'images' of shape (8, 6) (")


def test_a_folder_of_classes_is_for_every_task_that_takes_one_class_a_sample(tmp_path: Path) -> None:
    photos(tmp_path)
    with pytest.raises(RecipeError) as caught:
        splits_in(tmp_path, task="segmentation", folder="photos")
    message = str(caught.value)
    assert message.startswith(
        "[data] folder 'photos' says one class for each image, which the task 'segmentation' does not take (photos: "
    )
    assert message.endswith("; give its labels in a npz or by a factory")

    class Mine(OneOfSeveral):
        name = "mine"

    samples = Source(folder="photos").open(tmp_path, Mine())
    assert samples.classes == ("ant", "bee")
    assert samples.labels.tolist() == [0] * 10 + [1] * 10


def test_the_built_in_compositions_bring_their_own_splits(tmp_path: Path) -> None:
    unit = {"preprocess": {"scale": 1 / 255}}
    for source, task, settings, counts in (
        ("digit-canvases", "segmentation", unit, (900, 150, 150, 300)),
        ("digit-rows", "sequence-classification", {}, (1440, 240, 240, 480)),
    ):
        dataset = dataset_in(tmp_path, task=task, source=source, **settings)
        assert tuple(len(dataset.indices(split)) for split in SPLITS) == counts
        assert not [each for each in Splits(tmp_path / "splits").json("findings.json") if each["severity"] != "note"]
