"""The data stage, and the data set that later stages open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from small_training import IMAGES, arrays, context_in, dataset_in, save_npz, splits_in

from pipeline.artifact import Splits
from pipeline.data.content_digest import content_digest
from pipeline.data.dataset import open_dataset, read_interface
from pipeline.data.source import Source
from pipeline.data.splits import SPLITS
from pipeline.errors import DataRejected, IntegrityError, RecipeError
from pipeline.models.interface import InputSpec
from pipeline.samples import npz
from pipeline.stages.data import Data
from pipeline.tasks import TASKS
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


def sequences(count: int = 40) -> dict[str, NDArray[Any]]:
    """Two classes of sequences of 3 to 6 steps, padded to 6."""
    random = np.random.default_rng(0)
    lengths, labels = 3 + np.arange(count) % 4, np.arange(count) % 2
    mask = (np.arange(6) < lengths[:, None]).astype(np.float32)
    rows = (random.normal(labels[:, None, None], 1, (count, 6, 5)) * mask[..., None]).astype(np.float32)
    return {"rows": rows, "mask": mask, "tokens": random.integers(0, 90, (count, 6)), "labels": labels}


AXES = {"tokens": ("length",), "rows": ("length", "features"), "mask": ("length",)}
SEQUENCES: dict[str, Any] = {"task": "sequence-classification", "npz": "data.npz", "inputs": AXES}


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


def test_the_order_of_the_inputs_is_part_of_the_settings() -> None:
    one, other = ({"npz": "data.npz", "inputs": dict(pairs)} for pairs in (AXES.items(), reversed(AXES.items())))
    settings = [Data.model_validate(each).model_dump(mode="json") for each in (one, other)]
    assert settings[0] != settings[1]


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


def test_equal_arrays_of_other_names_are_other_contents() -> None:
    array = np.zeros(3)
    found = {content_digest(each) for each in ({"a": array}, {"b": array}, {"a": array, "b": array}, array)}
    assert len(found) == 4


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "preprocess": ({"preprocess": {"scale": 2.0}}, "preprocess is for images; inputs that are no images are fed as"),
    "augment": ({"augment": {"zoom": 0.1}}, "augment is for images; inputs that are no images are fed as they are"),
    "a source": ({"npz": None, "source": "digits"}, "inputs name the arrays of a npz or a factory; 'digits' brings"),
    "a folder": ({"npz": None, "folder": "x"}, "inputs name the arrays of a npz or a factory; 'x' brings its own"),
    "a mask of two axes": (
        {"inputs": {"mask": ("length", "features")}},
        'inputs.mask says what is padding, so it has one axis, such as ["length"]',
    ),
    "the batch": ({"inputs": {"rows": ("batch",)}}, "'batch' names something else; choose another name"),
    "labels": ({"inputs": {"labels": ("length",)}}, "'labels' names something else; choose another name"),
    "a name with a dot": ({"inputs": {"a.b": ("length",)}}, "'a.b' cannot name an input or an axis; write letters"),
    "an axis twice": ({"inputs": {"rows": ("length", "length")}}, "'length' stands twice; write it once"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_inputs_that_contradict_the_rest_are_refused(what: str) -> None:
    change, message = REFUSED[what]
    with pytest.raises(ValidationError) as caught:
        Data.model_validate({"npz": "data.npz", "inputs": AXES, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["preprocess", "augment"])
def test_the_digit_rows_are_no_images(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} is for images"):
        Data.model_validate({"source": "digit-rows", key: {}})


def scenes(height: int = 8, width: int = 6) -> dict[str, NDArray[Any]]:
    """Images whose label says of each pixel whether it is bright."""
    labels = np.random.default_rng(0).integers(0, 2, (40, height, width))
    return {"images": labels.astype(np.float32), "labels": labels}


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


def test_the_built_in_compositions_bring_their_own_splits(tmp_path: Path) -> None:
    unit = {"preprocess": {"scale": 1 / 255}}
    for source, task, settings, counts in (
        ("digit-canvases", "segmentation", unit, (900, 150, 150, 300)),
        ("digit-rows", "sequence-classification", {}, (1440, 240, 240, 480)),
    ):
        dataset = dataset_in(tmp_path, task=task, source=source, **settings)
        assert tuple(len(dataset.indices(split)) for split in SPLITS) == counts
        assert not [each for each in Splits(tmp_path / "splits").json("findings.json") if each["severity"] != "note"]
