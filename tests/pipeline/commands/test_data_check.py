"""What is said of data before training: `edgestill data check`, and the same findings in the data stage."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from small_training import RECIPE, arrays, recipe_in, save_npz, splits_in

from pipeline.commands.data_check import data_check
from pipeline.commands.outcome import Outcome
from pipeline.data.splits import SPLITS
from pipeline.errors import Cancelled, DataRejected, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress

OWN_SPLITS = np.array([*["train"] * 6, "validation", "calibration", "test", "test"] * 6)
SEQUENCES: dict[str, Any] = {
    "task": "sequence-classification",
    "inputs": {"rows": ("length", "features"), "mask": ("length",)},
}


def findings(folder: Path, data: dict[str, Any], task: str = "classification", **settings: Any) -> list[str]:
    """What the data stage writes."""
    save_npz(folder / "data.npz", data)
    found = splits_in(folder, task=task, npz="data.npz", **settings).json("findings.json")
    return [f"{each['severity']}: {each['message']}" for each in found]


def warnings(folder: Path, data: dict[str, Any], **settings: Any) -> list[str]:
    found = findings(folder, data, **settings)
    return [each.removeprefix("warning: ") for each in found if each.startswith("warning: ")]


def rejected(folder: Path, data: dict[str, Any], task: str = "classification", **settings: Any) -> str:
    save_npz(folder / "data.npz", data)
    with pytest.raises(DataRejected) as caught:
        splits_in(folder, task=task, npz="data.npz", **settings)
    return str(caught.value)


def test_what_a_reader_must_know_of_the_data_is_found(tmp_path: Path) -> None:
    data = arrays()
    data["images"][1] = data["images"][0]
    data["images"] *= 1000
    found = findings(tmp_path, {**data, "classes": np.array(["ant", "bee", "cat", "dog"])})
    assert found[0] == "note: 60 images of 4 classes: train 36, validation 6, calibration 6, test 12"
    assert found[1].startswith("note: images of the rarest and the commonest class: train 0 ('dog') to 12 ('")
    assert found[2] == "warning: class 'dog' has no training image"
    assert found[3].startswith("note: the training images' own normalization, after scale 1: mean = [")
    assert found[4:] == [
        "warning: the pixels are far from unit scale: is [data] preprocess the teacher's own?",
        "warning: 1 images occur more than once; each stays within one split",
        "warning: equal images have different labels: 0, 1",
    ]


def test_classes_of_which_a_split_has_none_are_counted_and_some_named(tmp_path: Path) -> None:
    splits = np.where(np.arange(60) % 3 == 2, "train", OWN_SPLITS)
    data = {**arrays(), "splits": splits, "classes": np.array(list("abcdefg"))}
    assert warnings(tmp_path, data)[:3] == [
        "4 classes have no training image: 'd', 'e', 'f' and 1 more",
        "class 'c' has no validation image",
        "class 'c' has no test image",
    ]


@pytest.mark.parametrize(
    ("rare", "expected"),
    [
        (5, []),
        (4, ["class '0' has 12 times as many training images as '2' (50 and 4); class weights make up for that"]),
    ],
)
def test_classes_more_than_ten_to_one_apart_are_warned_of(tmp_path: Path, rare: int, expected: list[str]) -> None:
    labels = np.repeat([0, 1, 2], [100, 100, 2 * rare])
    data = {"images": np.random.default_rng(0).normal(size=(len(labels), 8, 8)), "labels": labels}
    found = warnings(tmp_path, data, split={"train": 0.5, "validation": 0.2, "calibration": 0.1, "test": 0.2})
    assert [each for each in found if "times as many" in each] == expected


def pasted(found: list[str], prefix: str) -> dict[str, Any]:
    """The `mean = [...], std = [...]` of a finding, read as TOML."""
    text = next(each for each in found if each.startswith(prefix)).removeprefix(prefix)
    table: dict[str, Any] = tomllib.loads(f"table = {{ {text} }}")["table"]
    return table


def coloured() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    images = random.normal([100, 120, 200], [10, 40, 60], (60, 8, 8, 3)).clip(0, 255).astype(np.uint8)
    return {"images": images, "labels": np.arange(60) % 3}


def test_the_training_splits_own_normalization_can_be_pasted(tmp_path: Path) -> None:
    scale = {"scale": 0.004}
    found = findings(tmp_path, coloured(), preprocess=scale)
    own = pasted(found, "note: the training images' own normalization, after scale 0.004: ")
    save_npz(tmp_path / "data.npz", coloured())
    splits = splits_in(tmp_path, npz="data.npz").json("splits.json")
    train = [index for index, record in enumerate(splits) if record["split"] == "train"]
    pixels = coloured()["images"][train].astype(np.float64) * 0.004
    np.testing.assert_allclose(own["mean"], pixels.mean(axis=(0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(own["std"], pixels.std(axis=(0, 1, 2)), rtol=1e-3)
    assert warnings(tmp_path, coloured(), preprocess={**scale, **own}) == []
    assert (
        pasted(
            findings(tmp_path, coloured(), preprocess={**scale, **own}),
            ("note: the training images' own normalization, after scale 0.004: "),
        )
        == own
    )


def test_a_stated_normalization_that_does_not_fit_is_warned_of_by_its_worst_channel(tmp_path: Path) -> None:
    imagenet = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    found = warnings(tmp_path, coloured(), preprocess=imagenet)
    assert len(found) == 1
    assert found[0].startswith(
        "preprocess.mean and std should bring the pixels to mean 0 and deviation 1; channel 0 has"
    )
    assert "keep them if they are the teacher's own, else mean = [0.39" in found[0]


def test_a_channel_without_any_contrast_is_warned_of_and_not_divided_by_zero(tmp_path: Path) -> None:
    data = coloured()
    data["images"][..., 1] = 7
    found = findings(tmp_path, data, preprocess={"scale": 0.1})
    assert "warning: channel 1 has one value throughout all training images" in found
    assert pasted(found, "note: the training images' own normalization, after scale 0.1: ")["std"][1] == 1


def test_images_of_one_value_are_counted_and_some_named(tmp_path: Path) -> None:
    data = arrays()
    for index in (3, 10, 20, 59):
        data["images"][index] = index
    assert "4 images are of one value throughout: 3, 10, 20 and 1 more" in warnings(tmp_path, data)


def test_training_images_of_one_value_each_are_rejected(tmp_path: Path) -> None:
    data = {**arrays(), "splits": OWN_SPLITS}
    data["images"][OWN_SPLITS == "train"] = np.arange(36)[:, None, None]
    assert rejected(tmp_path, data) == (
        "[data] every training image is of one value throughout; there is nothing to see"
    )


def test_a_training_split_of_one_class_is_rejected(tmp_path: Path) -> None:
    labels = np.where(OWN_SPLITS == "train", 0, np.arange(60) % 3)
    assert rejected(tmp_path, {**arrays(), "splits": OWN_SPLITS, "labels": labels}) == (
        "[data] every training image has the same label; there is nothing to learn"
    )


def test_near_identical_images_of_two_splits_are_counted_and_some_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(60, 8, 8)).astype(np.float32)
    for original, copy in ((0, 6), (1, 7), (2, 8), (3, 9), (4, 5)):
        images[copy] = 1.2 * images[original] + 3 + random.normal(0, 0.01, (8, 8))
    found = [
        each for each in warnings(tmp_path, {**arrays(), "images": images, "splits": OWN_SPLITS}) if "like" in each
    ]
    assert len(found) == 1
    assert found[0].startswith("4 images outside the training split look like one of another split: ")
    assert found[0].endswith(" and 1 more; accuracy on them flatters: give what belongs together one split")
    assert found[0].count(" in train") == 3


def test_equal_images_with_different_labels_do_not_flood_the_report(tmp_path: Path) -> None:
    data = arrays()
    data["images"][1:60:2] = data["images"][0:60:2]
    found = [each for each in warnings(tmp_path, data) if "different labels" in each]
    assert found == [
        "equal images have different labels: 0, 1",
        "equal images have different labels: 2, 3",
        "equal images have different labels: 4, 5",
        "27 more images occur with different labels",
    ]


def sequences(real: int) -> dict[str, NDArray[Any]]:
    """Forty sequences of 10 steps, of which `real` are no padding."""
    random = np.random.default_rng(0)
    rows = random.normal(3, 2, (40, 10, 4)).astype(np.float32)
    mask = np.repeat((np.arange(10) < real)[None], 40, axis=0)
    return {"rows": np.where(mask[..., None], rows, 1e6).astype(np.float32), "mask": mask, "labels": np.arange(40) % 2}


def test_sequences_are_measured_without_their_padding(tmp_path: Path) -> None:
    found = findings(tmp_path, sequences(6), **SEQUENCES)
    assert found[0] == "note: 40 samples of 2 classes: train 24, validation 4, calibration 4, test 8"
    assert found[2].startswith("note: input 'rows' has mean 3.0")
    assert found[2].endswith(", padding left out")
    assert found[3:] == ["note: 40% of the training sequences is padding"]


def test_sequences_that_are_mostly_padding_are_warned_of(tmp_path: Path) -> None:
    assert warnings(tmp_path, sequences(2), **SEQUENCES) == [
        "80% of the training sequences is padding: shorter ones would train faster"
    ]


def test_values_of_inputs_that_are_whole_numbers_are_said_with_their_range(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(5, 900, (40, 10))
    tokens[0, 0], tokens[1, 1] = 2, 999
    data = {"tokens": tokens, "labels": np.arange(40) % 2}
    found = findings(tmp_path, data, task="sequence-classification", inputs={"tokens": ("length",)})
    assert found[-1] == "note: input 'tokens' holds values from 2 to 999"


def test_label_maps_of_the_ground_alone_are_counted(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (40, 8, 8))
    labels[[3, 7]] = 0
    data = {"images": np.random.default_rng(1).normal(size=(40, 8, 8)), "labels": labels}
    assert "note: 2 of 40 label maps hold class '0' alone: 3, 7" in findings(tmp_path, data, task="segmentation")
    labels[5:30] = 0
    assert "warning: 26 of 40 label maps hold class '0' alone: 3, 5, 6 and 23 more" in findings(
        tmp_path, data, task="segmentation"
    )


def test_a_split_whose_samples_have_no_label_at_all_is_rejected(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (60, 8, 8))
    labels[OWN_SPLITS == "validation"] = 255
    data = {**arrays(), "labels": labels, "splits": OWN_SPLITS}
    assert rejected(tmp_path, data, task="segmentation") == (
        "[data] no image of the validation split has a label of any class, so its mean IoU would mean nothing; give it "
        "samples with labels"
    )


def test_quantities_have_no_class_counts(tmp_path: Path) -> None:
    found = findings(tmp_path, {**arrays(), "labels": np.linspace(0, 1, 60)}, task="regression")
    assert not [each for each in found if "rarest" in each]


def check(recipe: Path | str, cancellation: Cancellation | None = None) -> Outcome:
    return data_check(str(recipe), None, QuietProgress(), cancellation or Cancellation())


def shown(outcome: Outcome) -> str:
    stream = io.StringIO()
    outcome.show(Console(file=stream, width=300))
    return stream.getvalue()


def test_a_check_says_what_the_data_stage_says_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_in(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = check(recipe)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert outcome.exit_code == 0
    assert outcome.document["recipe"] == "small.toml"
    assert outcome.document["samples"] == 60
    assert outcome.document["classes"] == ["0", "1", "2"]
    assert list(outcome.document["splits"]) == list(SPLITS)
    assert outcome.document["splits"]["train"] == {"samples": 24, "class_counts": [8, 8, 8]}
    stage = splits_in(tmp_path, **tomllib.loads(RECIPE)["data"])
    assert outcome.document["findings"] == stage.json("findings.json")
    json.dumps(outcome.document, allow_nan=False)
    for finding in outcome.document["findings"]:
        assert finding["message"] in shown(outcome)


def test_warnings_do_not_fail_a_check(tmp_path: Path) -> None:
    data = arrays()
    outcome = check(recipe_in(tmp_path, data={**data, "images": data["images"] * 1000}))
    assert outcome.exit_code == 0
    assert "warning" in shown(outcome)


def test_data_that_cannot_be_examined_fails_a_check_with_its_reason(tmp_path: Path) -> None:
    data = arrays()
    data["images"][7, 2, 3] = np.nan
    outcome = check(recipe_in(tmp_path, data=data))
    message = "[data] image 7 holds NaN or infinite values, or gets them from preprocess.scale, mean and std"
    assert outcome.exit_code == 4
    assert outcome.document == {
        "recipe": "small.toml",
        "samples": None,
        "classes": None,
        "splits": None,
        "teachers": [],
        "findings": [{"severity": "error", "message": message}],
    }
    assert message in shown(outcome)


def test_data_that_makes_training_meaningless_fails_a_check_and_is_still_counted(tmp_path: Path) -> None:
    data = {**arrays(), "splits": OWN_SPLITS}
    data["images"][6] = data["images"][0]
    outcome = check(recipe_in(tmp_path, data=data))
    assert (outcome.exit_code, outcome.document["samples"]) == (4, 60)
    assert [each["severity"] for each in outcome.document["findings"]] == ["warning", "error", "note"]


def test_a_recipe_without_data_cannot_be_checked(tmp_path: Path) -> None:
    recipe = tmp_path / "empty.toml"
    recipe.write_text('schema_version = 1\nname = "x"\ntask = "classification"\n', encoding="utf-8")
    with pytest.raises(RecipeError):
        check(recipe)


def test_a_check_can_be_cancelled(tmp_path: Path) -> None:
    class Asked(Cancellation):
        def check(self) -> None:
            raise Cancelled(2)

    with pytest.raises(Cancelled):
        check(recipe_in(tmp_path), Asked())


def test_the_built_in_digits_have_nothing_to_warn_of() -> None:
    outcome = check("digits")
    assert outcome.exit_code == 0
    assert {finding["severity"] for finding in outcome.document["findings"]} == {"note"}
