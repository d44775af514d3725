"""Data that would make the result meaningless, as a user meets it: one message, exit 4, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_training import CLASSES, arrays, invoke, recipe_in

Data = dict[str, NDArray[Any]]


def refused(recipe: Path, until: str = "data") -> str:
    result = invoke("run", recipe, "-w", recipe.parent / "ws", "--until", until, "--quiet")
    assert result.exit_code == 4, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return result.stderr.removeprefix("edgestill: ").rstrip("\n").replace(f"{recipe.parent}/", "")


def with_nan(data: Data) -> Data:
    data["images"][7, 2, 3] = np.nan
    return data


def in_two_splits(data: Data) -> Data:
    data["images"][6] = data["images"][0]
    return {**data, "splits": np.array([*["train"] * 6, "validation", "calibration", "test", "test"] * 6)}


CASES: dict[str, tuple[Callable[[Data], Data], str]] = {
    "empty": (
        lambda data: {name: array[:0] for name, array in data.items()},
        "[data] holds 0 samples; training, validation, calibration and test each need some",
    ),
    "one sample": (
        lambda data: {name: array[:1] for name, array in data.items()},
        "[data] holds 1 samples; training, validation, calibration and test each need some",
    ),
    "a split left empty": (
        lambda data: {name: array[:2] for name, array in data.items()},
        "[data] 2 samples, 2 of them distinct, leave the calibration split empty; "
        "add images or give it a larger share in [data] split",
    ),
    "NaN": (with_nan, "[data] image 7 holds NaN or infinite values, or gets them from preprocess.scale, mean and std"),
    "wrong shape": (
        lambda data: {**data, "images": data["images"].reshape(60, 64)},
        "images.npz: images have shape (60, 64); "
        "expected (samples, height, width) or with channels, 3 or 4 dimensions in all",
    ),
    "wrong dtype": (
        lambda data: {**data, "images": data["images"].astype(str)},
        "images.npz: images have dtype <U32; expected integers or floats",
    ),
    "objects": (
        lambda data: {**data, "labels": data["labels"].astype(object)},
        "images.npz: is not a readable .npz of plain arrays "
        "(Object arrays cannot be loaded when allow_pickle=False); save it again",
    ),
    "labels out of range": (
        lambda data: {**data, "classes": np.array(["ant", "bee"])},
        "images.npz: sample 2 has label 2; labels go from 0 to 1 here; name each class",
    ),
    "fewer labels than images": (
        lambda data: {**data, "labels": data["labels"][:-1]},
        "images.npz: 60 samples but 59 labels; each sample needs exactly one",
    ),
    "the same image in two splits": (
        in_two_splits,
        "[data] the same image stands in two splits: 0 in train and 6 in validation; accuracy on it would mean nothing",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_data_that_would_mean_nothing_is_rejected(tmp_path: Path, case: str) -> None:
    change, message = CASES[case]
    assert refused(recipe_in(tmp_path, data=change(arrays()))) == message


def test_fewer_training_samples_than_a_batch_are_rejected(tmp_path: Path) -> None:
    assert refused(recipe_in(tmp_path, ("batch_size = 8", "batch_size = 64")), "teacher") == (
        "teacher: the training split has 24 samples, fewer than one batch of 64; lower batch_size or add samples"
    )


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"])
def test_a_corrupt_image_is_rejected_by_name(tmp_path: Path, content: bytes) -> None:
    for index, pixels in enumerate(arrays()["images"]):
        file = tmp_path / "photos" / "abc"[index % CLASSES] / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 100).clip(0, 255).astype(np.uint8)).save(file)
    (tmp_path / "photos" / "b" / "13.png").write_bytes(content)
    recipe = recipe_in(tmp_path, ('npz = "images.npz"', 'folder = "photos"'))
    message = refused(recipe)
    assert message.startswith("photos/b/13.png: cannot be decoded (")
    assert message.endswith("; remove or replace it")


def test_a_crop_or_a_mean_that_does_not_fit_the_images_is_rejected(tmp_path: Path) -> None:
    assert refused(recipe_in(tmp_path, ("scale = 1.0", "crop = [8, 12]"))) == (
        "[data] image 0 is 8x8, preprocess.crop is 8x12; set preprocess.resize, which comes first"
    )
    three = ("mean = [0.0], std = [1.0]", "mean = [0.0, 0.0, 0.0], std = [1.0, 1.0, 1.0]")
    assert refused(recipe_in(tmp_path, three)) == (
        "[data] image 0 has 1 channel, preprocess.mean has 3 values; give one for all, or one for each"
    )


def test_nothing_of_a_rejected_data_set_is_taken_for_done(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, data=with_nan(arrays()))
    refused(recipe)
    refused(recipe)
    recipe_in(tmp_path)
    result = invoke("run", recipe, "-w", tmp_path / "ws", "--until", "data", "--quiet")
    assert result.exit_code == 0, result.output
