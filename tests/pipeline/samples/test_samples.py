"""Raw images and labels: what is read, and what is refused with its reason."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.splits import SPLITS
from pipeline.errors import DataRejected, RecipeError
from pipeline.samples import (
    ROWS_AXES,
    ImageFolder,
    Samples,
    digit_canvases,
    digit_rows,
    digits,
    from_factory,
    npz,
    read_image,
)
from pipeline.tasks import TASKS
from pipeline.tasks.task import Task

IMAGES = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])
CLASSIFICATION = TASKS["classification"]


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **{"images": IMAGES, "labels": LABELS, **arrays})
    return folder / "data.npz"


def refused(act: Callable[[], object], error: type[Exception] = DataRejected) -> str:
    with pytest.raises(error) as caught:
        act()
    return str(caught.value)


def test_an_npz_gives_its_images_labels_and_numbered_classes(tmp_path: Path) -> None:
    samples = npz(saved(tmp_path), CLASSIFICATION)
    assert (len(samples), samples.classes, samples.splits) == (6, ("0", "1", "2"), None)
    assert (samples.labels.tolist(), samples.id(4)) == (LABELS.tolist(), "4")
    np.testing.assert_array_equal(samples.raw(4), IMAGES[4])


@pytest.mark.parametrize("classes", [["ant", "bee", "cat"], [b"ant", b"bee", b"cat"]])
def test_an_npz_may_name_its_classes_and_bring_its_splits(tmp_path: Path, classes: list[str] | list[bytes]) -> None:
    splits = ["train", "train", "train", "validation", "calibration", "test"]
    samples = npz(saved(tmp_path, classes=classes, splits=splits), CLASSIFICATION)
    assert samples.classes == ("ant", "bee", "cat")
    assert samples.splits == tuple(splits)


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "labels of another length": ({"labels": LABELS[:-1]}, "6 samples but 5 labels; each sample needs exactly one"),
    "labels that are floats": (
        {"labels": LABELS.astype(float)},
        "labels have shape (6,) and dtype float64; expected 1-d integers",
    ),
    "labels of two dimensions": (
        {"labels": LABELS[:, None]},
        "labels have shape (6, 1) and dtype int64; expected 1-d integers",
    ),
    "a label below 0": (
        {"labels": LABELS - 1},
        "sample 0 has label -1; labels go from 0 to 5 here; number the classes from 0, or name them",
    ),
    "a label that counts no classes": (
        {"labels": np.array([0, 1, 2, 0, 1, 255], np.uint8)},
        "sample 5 has label 255; labels go from 0 to 5 here; number the classes from 0, or name them",
    ),
    "a label beyond 64 bits": (
        {"labels": np.array([2**64 - 1, 1, 2, 0, 1, 2], np.uint64)},
        "sample 0 has label 18446744073709551615; labels go from 0 to 5 here; number the classes from 0, or name them",
    ),
    "a label without a name": (
        {"classes": ["ant", "bee"]},
        "sample 2 has label 2; labels go from 0 to 1 here; name each class",
    ),
    "no names": ({"classes": np.array([], str)}, "classes are empty; name each class, or leave classes out"),
    "a name twice": ({"classes": ["ant", "bee", "ant"]}, "classes hold 'ant' twice; each needs its own name"),
    "names of two dimensions": (
        {"classes": [["ant", "bee", "cat"]]},
        "classes have shape (1, 3) and dtype <U3; expected 1-d strings",
    ),
    "one name for all": ({"classes": np.array("ant")}, "classes have shape () and dtype <U3; expected 1-d strings"),
    "splits of another length": ({"splits": ["train"]}, "6 samples but 1 splits; each sample needs exactly one"),
    "a split that is none": (
        {"splits": ["trian"] * 6},
        "split 'trian' is unknown; did you mean 'train'? choose from calibration, test, train, validation",
    ),
    "flat images": (
        {"images": IMAGES.reshape(6, 16)},
        "images have shape (6, 16); expected (samples, height, width) or with channels, 3 or 4 dimensions in all",
    ),
    "images of text": ({"images": IMAGES.astype(str)}, "images have dtype <U3; expected integers or floats"),
    "images of truth": ({"images": IMAGES > 3}, "images have dtype bool; expected integers or floats"),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_that_mean_nothing_are_refused(what: str, tmp_path: Path) -> None:
    arrays, message = ARRAYS[what]
    file = saved(tmp_path, **arrays)
    assert refused(lambda: npz(file, CLASSIFICATION)) == f"{file}: {message}"


@pytest.mark.parametrize("name", ["images", "labels", "classes", "splits"])
def test_objects_are_refused_and_not_unpickled(name: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    file = saved(tmp_path, **{name: np.array([Bomb()] * 6, dtype=object)})
    message = refused(lambda: npz(file, CLASSIFICATION))
    assert message.startswith(f"{file}: is not a readable .npz of plain arrays (Object arrays cannot be loaded")
    assert not (tmp_path / "exploded").exists()


def test_an_npz_without_its_arrays_is_told_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=IMAGES, labels=LABELS)
    assert refused(lambda: npz(tmp_path / "data.npz", CLASSIFICATION)) == (
        f"{tmp_path / 'data.npz'}: has no array 'images' (found x, labels); "
        "save it with numpy.savez(file, images=..., labels=...), or name its arrays in [data] inputs"
    )


@pytest.mark.parametrize(
    "content", [b"", b"hello", pickle.dumps([1]), b"PK\x03\x04 and no more"], ids=["empty", "text", "pickle", "cut"]
)
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "data.npz"
    file.write_bytes(content)
    assert (
        refused(lambda: npz(file, CLASSIFICATION))
        == f"{file}: is no .npz; save it with numpy.savez(file, images=..., labels=...)"
    )


@pytest.mark.parametrize("position", [160, 300, 700])
def test_an_npz_with_a_flipped_byte_is_refused(tmp_path: Path, position: int) -> None:
    file = saved(tmp_path, images=np.zeros((6, 16, 16), np.uint8))
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)
    assert refused(lambda: npz(file, CLASSIFICATION)).startswith(
        f"{file}: is not a readable .npz of plain arrays (Bad CRC-32"
    )


def factory(folder: Path, body: str) -> str:
    (folder / "data.py").write_text(f"import numpy as np\n\ndef make():\n    {body}\n", encoding="utf-8")
    return "data.py:make"


def test_a_factory_gives_arrays_or_lists_with_names_and_splits(tmp_path: Path) -> None:
    body = "return [[[1, 2], [3, 4]]] * 4, (0, 1, 0, 1), ('ant', 'bee'), ['train', 'validation', 'calibration', 'test']"
    samples = from_factory(factory(tmp_path, body), tmp_path, CLASSIFICATION)
    assert (len(samples), samples.classes, samples.splits) == (4, ("ant", "bee"), SPLITS)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (
            "return [1, 2]",
            RecipeError,
            "[data] factory data.py:make returned list; return (images, labels), (images, labels, class_names) "
            "or (images, labels, class_names, splits)",
        ),
        (
            "return None, [0]",
            RecipeError,
            "[data] factory data.py:make returned None for images or labels; return arrays",
        ),
        (
            "raise KeyError('shard 7')",
            RecipeError,
            "[data] factory: data.py:make raised KeyError: 'shard 7' (data.py line 4)",
        ),
        (
            "return np.zeros((2, 4, 4)), np.array([0, 1]), (name for name in 'ab')",
            DataRejected,
            "data.py:make: classes have shape () and dtype object; expected 1-d strings",
        ),
        ("return [[1], [1, 2]], [0, 1]", DataRejected, "data.py:make: images are no array (setting an array element"),
    ],
)
def test_a_factory_that_gives_something_else_is_told_what_to_return(
    tmp_path: Path, body: str, error: type[Exception], message: str
) -> None:
    specification = factory(tmp_path, body)
    assert refused(lambda: from_factory(specification, tmp_path, CLASSIFICATION), error).startswith(message)


def picture(file: Path, pixels: NDArray[Any] = IMAGES[0]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def test_a_folder_has_a_class_for_each_folder(tmp_path: Path) -> None:
    for name in ("bee/2.png", "ant/1.png", "ant/deep/0.PNG"):
        picture(tmp_path / name)
    samples = ImageFolder(tmp_path)
    assert samples.classes == ("ant", "bee")
    found = [(samples.id(index), int(samples.labels[index])) for index in range(len(samples))]
    assert found == [("ant/1.png", 0), ("ant/deep/0.PNG", 0), ("bee/2.png", 1)]
    assert (samples.splits, samples.left_out) == (None, ())


def test_a_folder_may_bring_its_splits(tmp_path: Path) -> None:
    for split in SPLITS:
        picture(tmp_path / split / "ant" / "1.png")
        picture(tmp_path / split / "bee" / "1.png")
    samples = ImageFolder(tmp_path)
    assert samples.classes == ("ant", "bee")
    assert samples.splits == tuple(split for split in SPLITS for _ in range(2))
    assert samples.id(0) == "train/ant/1.png"


@pytest.mark.parametrize(
    "others", [("val",), ("test",), ("validation", "test"), ("validation", "calibration", "test", "x")]
)
def test_a_folder_with_some_of_the_splits_is_not_taken_for_classes(tmp_path: Path, others: tuple[str, ...]) -> None:
    for split in ("train", *others):
        picture(tmp_path / split / "ant" / "1.png")
    assert refused(lambda: ImageFolder(tmp_path)) == (
        f"{tmp_path}: holds the folders {', '.join(sorted(['train', *others]))}; "
        "give exactly train, validation, calibration, test, or a folder for each class and no splits"
    )


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "1.png")
    picture(tmp_path / "plane" / "1.png")
    assert ImageFolder(tmp_path).classes == ("plane", "train")


def test_files_that_are_no_image_of_a_class_are_named(tmp_path: Path) -> None:
    for name in ("ant/1.png", "bee/1.png", "stray.png"):
        picture(tmp_path / name)
    (tmp_path / "ant" / "notes.txt").touch()
    (tmp_path / "ant" / ".hidden").touch()
    (tmp_path / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert ImageFolder(tmp_path).left_out == ("ant/gone.png", "ant/notes.txt", "stray.png")


@pytest.mark.parametrize("stray", [True, False])
def test_a_folder_without_classes_is_refused(tmp_path: Path, stray: bool) -> None:
    if stray:
        picture(tmp_path / "1.png")
    assert refused(lambda: ImageFolder(tmp_path)) == (
        f"{tmp_path}: no images; expected <class>/<image> with .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp"
    )


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [
        ("1", (4, 4), np.uint8),
        ("L", (4, 4), np.uint8),
        ("LA", (4, 4), np.uint8),
        ("P", (4, 4, 3), np.uint8),
        ("RGB", (4, 4, 3), np.uint8),
        ("RGBA", (4, 4, 3), np.uint8),
    ],
)
def test_every_kind_of_png_is_gray_or_rgb(tmp_path: Path, mode: str, shape: tuple[int, ...], dtype: Any) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "image.png")
    found = read_image(tmp_path / "image.png")
    assert (found.shape, found.dtype) == (shape, dtype)


def test_gray_of_16_bits_keeps_every_value(tmp_path: Path) -> None:
    pixels = np.array([[0, 255], [256, 65535]], np.uint16)
    np.testing.assert_array_equal(read_image(picture(tmp_path / "image.png", pixels)), pixels)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(b"no image")
    message = refused(lambda: read_image(file))
    assert message == f"{file}: cannot be decoded (cannot identify image file '{file}'); remove or replace it"


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_an_image_that_was_cut_off_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    file = picture(tmp_path / f"image.{suffix}", noise)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert refused(lambda: read_image(file)).startswith(f"{file}: cannot be decoded (")


def test_an_image_that_claims_to_be_enormous_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    file = picture(tmp_path / "image.bmp")
    content = bytearray(file.read_bytes())
    content[18:26] = struct.pack("<ii", 100_000, 100_000)
    file.write_bytes(content)
    assert "decompression bomb" in refused(lambda: read_image(file))


def test_digits_are_the_1797_images_of_scikit_learn() -> None:
    samples = digits(CLASSIFICATION)
    assert (len(samples), samples.classes) == (1797, tuple("0123456789"))
    assert np.asarray(samples.raw(0)).shape == (8, 8)
    assert {float(np.max(np.asarray(samples.raw(index)))) for index in range(20)} <= {15.0, 16.0}


ROWS = np.zeros((6, 4, 3), np.float32)
MASK = np.ones((6, 4), np.float32)
AXES = {"rows": ("length", "features"), "mask": ("length",)}


def with_value(array: NDArray[Any], value: float, *place: int) -> NDArray[Any]:
    changed = array.copy()
    changed[place] = value
    return changed


INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "float64": (
        {"rows": ROWS.astype(float)},
        "'rows' has dtype float64; expected float32, int64, int32, uint8, bool; convert it with .astype('float32')",
    ),
    "text": ({"rows": ROWS.astype(str)}, "'rows' has dtype <U32; expected float32, int64, int32, uint8, bool"),
    "an axis too few": (
        {"rows": ROWS[..., 0]},
        "'rows' has shape (6, 4), [data] inputs names 2 axes after the samples (length, features); "
        "name each axis but the first",
    ),
    "fewer masks than rows": (
        {"mask": MASK[:5]},
        "'rows' holds 6 samples, 'mask' 5; give each sample both",
    ),
    "another length": (
        {"mask": np.ones((6, 5), np.float32)},
        "axis 'length' is 4 in 'rows' and 5 in 'mask'; make them equal, or give the axes different names",
    ),
    "an empty axis": ({"rows": ROWS[..., :0]}, "axis 'features' of 'rows' is empty"),
    "NaN": ({"rows": with_value(ROWS, np.nan, 2, 1, 0)}, "'rows' of sample 2 holds NaN or infinite values"),
    "infinity": ({"rows": with_value(ROWS, -np.inf, 5, 0, 2)}, "'rows' of sample 5 holds NaN or infinite values"),
    "half a mask": (
        {"mask": with_value(MASK, 0.5, 3, 1)},
        "'mask' of sample 3 holds other values than 0 and 1; "
        "write 1 where the sequence is real and 0 where it is padding",
    ),
    "all padding": (
        {"mask": with_value(MASK, 0, 4)},
        "sample 4 is all padding ('mask' is 0 everywhere); leave it out",
    ),
    "no mask": (
        {"mask": None},
        "has no array 'mask' (found rows, labels); save it with numpy.savez(file, rows=..., mask=..., labels=...)",
    ),
}


@pytest.mark.parametrize("what", INPUTS)
def test_inputs_that_cannot_be_fed_as_they_are_are_refused(what: str, tmp_path: Path) -> None:
    change, message = INPUTS[what]
    arrays = {"rows": ROWS, "mask": MASK, "labels": LABELS, **change}
    file = tmp_path / "data.npz"
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    assert refused(lambda: npz(file, TASKS["sequence-classification"], AXES)) == f"{file}: {message}"


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "uint8", "bool", ">f4"])
def test_inputs_keep_their_type_in_the_machines_byte_order(tmp_path: Path, dtype: str) -> None:
    rows = np.arange(6).reshape(6, 1).astype(dtype)
    np.savez(tmp_path / "data.npz", rows=rows, labels=LABELS)
    raw = npz(tmp_path / "data.npz", TASKS["classification"], {"rows": ("length",)}).raw(2)
    assert isinstance(raw, dict)
    assert raw["rows"].dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(raw["rows"], rows[2])


def test_any_pattern_of_padding_is_taken(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", rows=ROWS, mask=np.tile([0, 1, 0, 1], (6, 1)), labels=LABELS)
    assert len(npz(tmp_path / "data.npz", TASKS["sequence-classification"], AXES)) == 6


def test_a_factory_gives_its_inputs_by_name(tmp_path: Path) -> None:
    body = "return {'mask': np.ones((4, 2), bool), 'rows': [[[1], [2]]] * 4, 'more': None}, [0, 1, 0, 1]"
    raw = from_factory(factory(tmp_path, body), tmp_path, CLASSIFICATION, AXES).raw(0)
    assert isinstance(raw, dict)
    assert {name: array.shape for name, array in raw.items()} == {"rows": (2, 1), "mask": (2,)}


@pytest.mark.parametrize(
    ("body", "axes", "message"),
    [
        (
            "return {'rows': [[1]] * 2}, [0, 1]",
            None,
            "[data] factory data.py:make returned a dict of rows; "
            'name its arrays and their axes: inputs = { rows = ["length", "features"] }',
        ),
        (
            "return [[1]] * 2, [0, 1]",
            AXES,
            "[data] factory data.py:make returned list for inputs; [data] inputs wants a dict of arrays: rows, mask",
        ),
        (
            "return {'rows': [[1]] * 2}, [0, 1]",
            AXES,
            "[data] factory data.py:make returned no 'mask' (found rows)",
        ),
        (
            "return 3",
            AXES,
            "[data] factory data.py:make returned int; return (inputs, labels), (inputs, labels, class_names) "
            "or (inputs, labels, class_names, splits)",
        ),
    ],
)
def test_a_factory_whose_inputs_are_not_those_of_the_recipe_is_told(
    tmp_path: Path, body: str, axes: dict[str, tuple[str, ...]] | None, message: str
) -> None:
    specification = factory(tmp_path, body)
    assert refused(lambda: from_factory(specification, tmp_path, CLASSIFICATION, axes), RecipeError) == message


def test_canvases_hold_one_to_four_digits_labelled_where_their_ink_is() -> None:
    samples = digit_canvases(TASKS["segmentation"])
    assert (len(samples), samples.classes) == (1500, ("ground", *"0123456789"))
    assert np.bincount(samples.labels.ravel(), minlength=11).min() > 10_000
    for index in range(0, 1500, 50):
        image, label = samples.raw(index), samples.labels[index]
        assert isinstance(image, np.ndarray)
        assert (image.shape, label.shape) == ((32, 32), (32, 32))
        assert image.dtype == np.uint8
        assert 2 <= len(np.unique(label)) <= 5
        assert image[label > 0].mean() > image[label == 0].mean() + 30


def test_the_rows_are_those_of_whole_digits_and_the_label_is_the_last() -> None:
    samples, single = digit_rows(TASKS["sequence-classification"]), digits(CLASSIFICATION)
    digit_of = {np.asarray(single.raw(index)).tobytes(): single.labels[index] for index in range(1797)}
    assert (len(samples), samples.axes, samples.classes) == (2400, ROWS_AXES, tuple("0123456789"))
    lengths = set()
    for index in range(2400):
        raw = samples.raw(index)
        assert isinstance(raw, dict)
        rows, length = raw["rows"], int(raw["mask"].sum())
        lengths.add(length)
        assert raw["mask"].tolist() == [1.0] * length + [0.0] * (32 - length)
        assert not rows[length:].any()
        assert digit_of[(rows[length - 8 : length] * 16).tobytes()] == samples.labels[index]
    assert lengths == {8, 16, 24, 32}


def test_no_digit_image_is_in_sequences_of_two_splits() -> None:
    samples = digit_rows(TASKS["sequence-classification"])
    assert samples.splits is not None
    split_of: dict[bytes, set[str]] = {}
    for index, split in enumerate(samples.splits):
        raw = samples.raw(index)
        assert isinstance(raw, dict)
        for digit in raw["rows"][raw["mask"] > 0].reshape(-1, 8, 8):
            split_of.setdefault(digit.tobytes(), set()).add(split)
    assert len(split_of) > 1700
    assert {len(splits) for splits in split_of.values()} == {1}


@pytest.mark.parametrize(("make", "task"), [(digit_canvases, "segmentation"), (digit_rows, "sequence-classification")])
def test_a_composition_is_the_same_each_time(make: Callable[[Task], Samples], task: str) -> None:
    first, second = make(TASKS[task]), make(TASKS[task])
    assert first.splits == second.splits
    np.testing.assert_array_equal(first.labels, second.labels)
    for index in range(0, len(first), 100):
        np.testing.assert_equal(first.raw(index), second.raw(index))
