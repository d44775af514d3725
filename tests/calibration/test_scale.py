"""One scale from one amax, in the bits that every runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.ranges import Ranges, ranges_from_sketches
from calibration.scale import LEAST_SCALE, amax_from_scale, nearest_float32, scale_from_amax, stored_scale
from calibration.statistics import Sketch, Sketches

LARGEST = float(np.finfo(np.float32).max)
magnitudes = st.floats(LEAST_SCALE * 127, LARGEST, width=32)
scales = st.floats(LEAST_SCALE, LARGEST, width=32)


@given(magnitudes)
def test_a_float32_amax_makes_the_scale_that_float32_arithmetic_makes(amax: float) -> None:
    assert scale_from_amax(amax).tobytes() == (np.float32(amax) / np.float32(127)).tobytes()


@given(scales)
def test_a_scale_comes_back_bit_for_bit(scale: float) -> None:
    assert scale_from_amax(amax_from_scale(np.float32(scale))).tobytes() == np.float32(scale).tobytes()


def test_some_scales_come_back_only_because_amax_is_kept_in_float64() -> None:
    scale = np.float32(1.5 + 64 * 2**-23)
    assert scale_from_amax(amax_from_scale(scale)) == scale
    assert np.float32(amax_from_scale(scale)) / np.float32(127) != scale


@pytest.mark.parametrize("levels", [127, 448])
def test_zero_has_the_scale_1_and_what_is_too_small_the_least_normal_one(levels: int) -> None:
    assert scale_from_amax(0.0, levels) == 1.0
    assert scale_from_amax(1e-42, levels) == np.float32(LEAST_SCALE)
    assert stored_scale(0.0) == 1.0


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_nearest_float32_is_finite(value: float) -> None:
    found = nearest_float32(value)
    assert abs(found) <= LARGEST
    assert float(np.float32(found)) == found


@pytest.mark.parametrize("method", ["entropy", "minmax"])
def test_the_ranges_of_a_calibration_are_float32_values(method: str) -> None:
    sketches = Sketches(1, {"x": Sketch()})
    sketches.tensors["x"].update(np.random.default_rng(0).standard_normal(5000).astype(np.float32))
    found: Ranges = ranges_from_sketches(sketches, method)
    for end in (found.tensors["x"].low, found.tensors["x"].high):
        assert float(np.float32(end)) == end
