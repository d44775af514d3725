"""How sure a calibration is of its ranges: intervals by resampling, and images that alone set one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration import METHODS
from calibration.methods.entropy import LEVELS, kl_divergences
from calibration.methods.method import Method, Range
from calibration.methods.mse import Spread, asymmetric_grid, spread_of, squared_errors, symmetric_grid
from calibration.methods.percentile import Percentile
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.statistics import Sketch, Sketches
from calibration.statistics.confidence import ALONE_SHARE, TOLERANCE, alone_in, confidence_of, interval_of
from calibration.statistics.evidence import evidence_of
from calibration.statistics.extremes import Image
from calibration.statistics.resampling import RESAMPLES, Resampled

Images = list[NDArray[np.float32]]


def sketches_of(images: Images) -> Sketches:
    found = Sketches()
    found.make_room(len(images))
    for number, values in enumerate(images):
        sketch = found.tensors.setdefault("x", Sketch())
        sketch.update(values, [Image(number, f"image-{number}")], group=found.group_of(number))
        found.images += 1
    return found


def sketch_of(images: Images) -> Sketch:
    return sketches_of(images).tensors["x"]


def alike(count: int = 16, contrast: float = 0.0, seed: int = 0) -> Images:
    """Values after a HardSwish, about: few below zero; `contrast` is how far images differ in scale."""
    random = np.random.default_rng(seed)
    scales = np.exp(contrast * random.standard_normal(count))
    return [np.maximum(scale * random.standard_normal(8000), -0.375 * scale).astype(np.float32) for scale in scales]


def resampled_of(images: Images) -> Resampled:
    found = Resampled.of(sketch_of(images))
    assert found is not None
    return found


def drawings(resampled: Resampled, images: Images) -> Iterator[tuple[int, Images]]:
    """Every fifth resample, and the images that it drew."""
    for row in range(0, RESAMPLES, 5):
        yield row, [images[number] for number, times in enumerate(resampled.weights[row]) for _ in range(int(times))]


@pytest.mark.parametrize("method", [METHODS[name] for name in ("minmax", "percentile")], ids=lambda m: m.name)
def test_what_a_method_would_choose_of_a_resample_is_what_it_chooses_of_those_images(method: Method) -> None:
    resampled = resampled_of(images := alike(contrast=0.2))
    lows, highs = method.resampled_ranges(resampled, method.range_of(resampled.sketch))
    assert lows.shape == highs.shape == (RESAMPLES,)
    for row, drawn in drawings(resampled, images):
        wanted = method.range_of(sketch_of(drawn))
        assert (lows[row], highs[row]) == pytest.approx((wanted.low, wanted.high), rel=0.05)


def error_of(values: Spread, low: float, high: float) -> float:
    return float(np.prod([squared_errors(values, *grid(low, high)) for grid in (symmetric_grid, asymmetric_grid)]))


def test_of_a_resample_mse_chooses_a_range_whose_error_is_next_to_the_least() -> None:
    resampled = resampled_of(images := alike(contrast=0.2))
    lows, highs = METHODS["mse"].resampled_ranges(resampled, METHODS["mse"].range_of(resampled.sketch))
    for row, drawn in drawings(resampled, images):
        sketch = sketch_of(drawn)
        spread = spread_of(sketch)
        best = METHODS["mse"].range_of(sketch)
        assert error_of(spread, float(lows[row]), float(highs[row])) <= 1.1 * error_of(spread, best.low, best.high)


def test_of_a_resample_entropy_chooses_a_threshold_whose_divergence_is_next_to_the_least() -> None:
    resampled = resampled_of(images := alike(contrast=0.2))
    _, highs = METHODS["entropy"].resampled_ranges(resampled, METHODS["entropy"].range_of(resampled.sketch))
    for row, drawn in drawings(resampled, images):
        sketch = sketch_of(drawn)
        histogram = sketch.magnitudes.reshape(2048, 2).sum(axis=1).astype(np.float64)
        histogram = histogram[: np.flatnonzero(histogram)[-1] + 1]
        histogram[0] = histogram[1]
        divergences = kl_divergences(histogram)
        place = min(round(highs[row] / sketch.width / 2), histogram.size) - LEVELS
        assert divergences[max(0, place - 8) : place + 9].min() <= 1.2 * divergences.min()


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_images_that_differ_make_wider_intervals_than_images_that_are_alike(method: Method) -> None:
    looseness = []
    for contrast in (0.0, 0.7):
        sketch = sketch_of(alike(contrast=contrast))
        chosen = method.range_of(sketch)
        interval = interval_of(sketch, method, chosen)
        assert interval is not None
        assert interval.low[0] <= chosen.low <= interval.low[1]
        assert interval.high[0] <= chosen.high <= interval.high[1]
        looseness.append(interval.looseness(chosen))
    assert looseness[0] <= TOLERANCE
    assert looseness[0] < looseness[1]


def test_intervals_get_narrower_with_more_images() -> None:
    method = Percentile(99.0)
    few, many = sketch_of(alike(16, contrast=0.5)), sketch_of(alike(256, contrast=0.5))
    intervals = [(interval_of(each, method, method.range_of(each)), method.range_of(each)) for each in (few, many)]
    of_few, of_many = (interval.looseness(chosen) for interval, chosen in intervals if interval is not None)
    assert of_many < 0.75 * of_few


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_a_tensor_that_is_all_zero_is_certain(method: Method) -> None:
    sketch = sketch_of([np.zeros(10, np.float32)] * 9)
    interval = interval_of(sketch, method, Range(0.0, 0.0))
    assert interval is not None
    assert (interval.low, interval.high, interval.looseness(Range(0.0, 0.0))) == ((0, 0), (0, 0), 0)


def test_seven_images_say_nothing_of_others() -> None:
    sketch = sketch_of(alike(7))
    assert interval_of(sketch, METHODS["minmax"], Range(sketch.minimum, sketch.maximum)) is None
    assert confidence_of({"x": None}, {"x": Range(0, 1)}) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_an_image_that_alone_sets_a_range_is_named_with_what_the_others_reach(sign: int) -> None:
    images = [sign * np.abs(each) for each in alike(12)]
    images[9] = images[9] * 5
    sketch = sketch_of(images)
    found = alone_in("x", sketch, Range(sketch.minimum, sketch.maximum))
    assert found is not None
    others = max(float(np.abs(each).max()) for number, each in enumerate(images) if number != 9)
    assert (found.image, abs(found.others)) == ("image-9", others)
    assert found.share == pytest.approx(1 - others / np.abs(images[9]).max())
    assert "image 'image-9' alone sets the range of layer4.1.conv2: there it reaches" in found.in_words(
        "layer4.1.conv2"
    )


def test_no_image_alone_sets_a_range_that_two_reach_or_that_cuts_the_outlier_off() -> None:
    images = [np.abs(each) for each in alike(12)]
    images[9] = images[9] * 5
    sketch = sketch_of(images)
    assert alone_in("x", sketch, Range(0.0, 1.0)) is None
    images[4] = images[9] * 1.01
    twice = sketch_of(images)
    assert alone_in("x", twice, Range(twice.minimum, twice.maximum)) is None


def test_an_image_that_widens_one_end_alone_is_named_though_the_largest_magnitude_stays() -> None:
    images = [np.abs(each) for each in alike(12)]
    images[3][0] = -2.0
    sketch = sketch_of(images)
    found = alone_in("x", sketch, Range(sketch.minimum, sketch.maximum))
    assert found is not None
    assert (found.image, found.reaches) == ("image-3", -2.0)
    assert ALONE_SHARE < found.share < 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_of_an_image_that_sets_both_ends_the_one_that_it_widens_more_is_named(sign: int) -> None:
    images = [each.clip(-18, 15) for each in alike(12)]
    images[5][:2] = 15.64, -18.2
    images[9][:2] = 17.16, -25.99
    sketch = sketch_of([sign * each for each in images])
    found = alone_in("x", sketch, Range(sketch.minimum, sketch.maximum))
    assert found is not None
    assert found.image == "image-9"
    assert found.share == pytest.approx(1 - 18.2 / 25.99)
    assert [found.reaches, found.others] == pytest.approx([sign * -25.99, sign * -18.2])
    reached = ("-25.99", "-18.2") if sign == 1 else ("25.99", "18.2")
    assert found.in_words("conv") == (
        "image 'image-9' alone sets the range of conv: there it reaches {}, no other image goes beyond {}; "
        "without it the range is 30% narrower".format(*reached)
    )


def test_ranges_json_holds_the_range_its_interval_and_the_counts_behind_it(tmp_path: Path) -> None:
    images = alike(12)
    images[9][:] *= 9
    images[0][:3] = 0
    sketches = sketches_of(images)
    ranges = ranges_from_sketches(sketches, "minmax")
    evidence_of(ranges, sketches).save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == ranges
    document = json.loads((tmp_path / "ranges.json").read_text())
    entry = document["tensors"]["x"]
    assert (entry["values"], entry["zeros"], entry["masked"], entry["saturating"]) == (96000, 3, 0, 0)
    assert entry["low_interval"][0] <= entry["low"] <= entry["low_interval"][1]
    assert entry["set_alone_by"]["image"] == "image-9"
    assert document["confidence"]["loosest"]["tensor"] == "x"
    assert (document["confidence"]["tensors"], document["confidence"]["within_tolerance"]) == (1, 0)
