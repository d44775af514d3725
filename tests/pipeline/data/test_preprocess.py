"""One function between a raw image and a network's input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.data.preprocess import Preprocess
from pipeline.errors import DataRejected

FINITE = st.floats(-100, 100, width=32)
GRAY = hnp.arrays(np.uint8, st.tuples(st.integers(5, 9), st.integers(5, 9)))
RGB = hnp.arrays(np.uint8, st.tuples(st.integers(5, 9), st.integers(5, 9), st.just(3)))


@given(GRAY, st.floats(0.0009765625, 10, width=32), FINITE, st.floats(0.0625, 10, width=32))
def test_a_pixel_is_scaled_then_shifted_then_divided(
    image: NDArray[np.uint8], scale: float, mean: float, std: float
) -> None:
    found = Preprocess(scale=scale, mean=(mean,), std=(std,)).apply(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], (image * np.float64(scale) - mean) / std, rtol=1e-5, atol=1e-3)


@given(RGB, st.tuples(FINITE, FINITE, FINITE))
def test_each_channel_has_its_own_mean(image: NDArray[np.uint8], mean: tuple[float, float, float]) -> None:
    found = Preprocess(mean=mean, std=(1.0, 2.0, 4.0)).apply(image)
    expected = (image.astype(np.float64) - mean) / [1.0, 2.0, 4.0]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-4)


@given(RGB)
def test_the_layout_changes_nothing_but_where_the_channels_stand(image: NDArray[np.uint8]) -> None:
    last = Preprocess(layout="hwc", resize=(6, 7), crop=(4, 4)).apply(image)
    first = Preprocess(layout="chw", resize=(6, 7), crop=(4, 4)).apply(image.transpose(2, 0, 1))
    assert last.shape == (3, 4, 4)
    assert last.flags.c_contiguous
    np.testing.assert_array_equal(last, first)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((8, 9), "hw"), ((8, 9, 3), "hwc"), ((8, 9, 1), "hwc"), ((3, 8, 9), "chw"), ((4, 8, 9), "chw")],
)
def test_the_layout_is_read_from_the_shape_and_written_down(shape: tuple[int, ...], layout: str) -> None:
    assert Preprocess().for_images_like(np.zeros(shape)).layout == layout


@pytest.mark.parametrize("shape", [(8, 9, 2), (5, 8, 9), (3, 8, 4), (1, 2, 3, 4), (7,)])
def test_a_shape_that_does_not_tell_its_layout_is_not_guessed(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataRejected) as caught:
        Preprocess().apply(np.zeros(shape), "image 3")
    assert str(caught.value) == (
        f"image 3 has shape {shape}, which does not tell its channels; set [data] preprocess.layout to hw, hwc or chw"
    )


def test_a_layout_that_is_set_allows_any_number_of_channels() -> None:
    assert Preprocess(layout="chw").apply(np.zeros((5, 8, 9))).shape == (5, 8, 9)


@given(st.integers(0, 255), st.integers(1, 20), st.integers(1, 20))
def test_an_even_image_stays_even_when_resized(value: int, height: int, width: int) -> None:
    found = Preprocess(resize=(height, width)).apply(np.full((7, 5), value, np.uint8))
    assert found.shape == (1, height, width)
    np.testing.assert_allclose(found, value, atol=1e-3)


def test_a_crop_keeps_the_centre() -> None:
    image = np.arange(36, dtype=np.float32).reshape(6, 6)
    np.testing.assert_array_equal(Preprocess(crop=(2, 4)).apply(image)[0], image[2:4, 1:5])


@pytest.mark.parametrize(
    ("settings", "image", "message"),
    [
        (
            {"crop": (9, 8)},
            np.zeros((8, 8)),
            "image 3 is 8x8, preprocess.crop is 9x8; set preprocess.resize, which comes first",
        ),
        (
            {"mean": (0.0,) * 3, "std": (1.0,) * 3},
            np.zeros((8, 8)),
            "image 3 has 1 channel, preprocess.mean has 3 values; give one for all, or one for each",
        ),
        (
            {"layout": "hw"},
            np.zeros((8, 8, 3)),
            "image 3 has shape (8, 8, 3), the layout 'hw' has 2 dimensions; make all images gray or all RGB, "
            "and where it is set, [data] preprocess.layout what they are",
        ),
        ({}, np.zeros((8, 0)), "image 3 is empty (shape (8, 0))"),
        (
            {},
            np.full((8, 8), np.nan),
            "image 3 holds NaN or infinite values, or gets them from preprocess.scale, mean and std",
        ),
        (
            {"scale": 1e30},
            np.full((8, 8), 1e30),
            "image 3 holds NaN or infinite values, or gets them from preprocess.scale, mean and std",
        ),
        (
            {"std": (1e-60,)},
            np.ones((8, 8)),
            "image 3 holds NaN or infinite values, or gets them from preprocess.scale, mean and std",
        ),
    ],
)
def test_an_image_that_does_not_fit_is_named_with_the_mend(
    settings: dict[str, object], image: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(DataRejected) as caught:
        Preprocess.model_validate(settings).apply(image, "image 3")
    assert str(caught.value) == message


@given(st.integers(2, 20), st.integers(2, 20), st.integers(2, 40), st.integers(2, 40))
def test_a_label_takes_the_pixel_in_which_its_centre_lies(height: int, width: int, tall: int, wide: int) -> None:
    label = np.arange(height * width).reshape(height, width)
    found = Preprocess(resize=(tall, wide)).apply_to_label(label)
    rows = [int((row + 0.5) * height / tall) for row in range(tall)]
    columns = [int((column + 0.5) * width / wide) for column in range(wide)]
    np.testing.assert_array_equal(found, label[np.ix_(rows, columns)])
    assert found.dtype == label.dtype


@given(st.integers(1, 4), st.integers(1, 4))
def test_a_label_is_cropped_where_its_image_is(height: int, width: int) -> None:
    label = np.arange(30).reshape(6, 5)
    sized = Preprocess(crop=(height, width))
    np.testing.assert_array_equal(sized.apply_to_label(label), sized.apply(label)[0])


def test_a_label_that_is_smaller_than_the_crop_is_rejected() -> None:
    with pytest.raises(DataRejected, match=r"label 3 is 8x8, preprocess\.crop is 9x8"):
        Preprocess(crop=(9, 8)).apply_to_label(np.zeros((8, 8)), "label 3")
