"""Percentile, MSE and entropy beside brute force on the raw values, and how methods are written down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from calibration import METHODS
from calibration.errors import CalibrationError
from calibration.methods import mse
from calibration.methods.entropy import LEVELS
from calibration.methods.method import Range
from calibration.methods.method_text import method_from_text, text_from_method
from calibration.methods.mse import Grid, Spread, asymmetric_grid, spread_of, squared_errors, symmetric_grid
from calibration.methods.percentile import Percentile
from calibration.statistics import Sketch
from pipeline.quantizing.settings import checked_method

Values = NDArray[np.float32]


def sketch_of(values: Values) -> Sketch:
    sketch = Sketch()
    sketch.update(values)
    return sketch


def silu(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values / (1 + np.exp(-values)), np.float64)


_TENSORS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "normal": lambda random: random.normal(size=20_000),
    "laplace": lambda random: random.laplace(size=20_000),
    "heavy tailed": lambda random: random.standard_t(3, size=20_000),
    "after a Relu": lambda random: np.maximum(random.laplace(size=20_000), 0),
    "after a SiLU": lambda random: silu(random.normal(size=20_000) * 3),
    "negative": lambda random: -random.exponential(size=20_000),
    "away from zero": lambda random: random.uniform(5, 9, size=5_000),
    "with an outlier": lambda random: np.append(random.normal(size=20_000), 60.0),
    "shifted": lambda random: random.normal(size=20_000) + 1.5,
}


def values_of(tensor: str) -> Values:
    return _TENSORS[tensor](np.random.default_rng(0)).astype(np.float32)


def raw_error(values: Values, grid: Grid) -> float:
    step, first, levels = float(grid[0]), float(grid[1]), grid[2]
    exact = values.astype(np.float64)
    if step == 0.0:
        return float(np.square(exact).sum())
    return float(np.square(exact - step * np.clip(np.rint(exact / step), first, first + levels - 1)).sum())


def plain_errors(
    values: Spread, steps: NDArray[np.float64], firsts: NDArray[np.float64], levels: int
) -> NDArray[np.float64]:
    """Bin by bin, from the antiderivative of (x - q(x))^2."""
    found = []
    for step, first in zip(steps, firsts, strict=True):
        level = np.clip(np.rint(values.edges / (step or np.inf)), first, first + levels - 1)
        off = values.edges - level * step
        found.append(values.density @ np.diff(level * (step**3 / 12) + off**3 / 3))
    return np.array(found)


def raw_errors(values: Values, chosen: Range) -> tuple[float, float]:
    """On the symmetric grid, and on that of 255 steps from low to high."""
    symmetric, asymmetric = symmetric_grid(chosen.low, chosen.high), asymmetric_grid(chosen.low, chosen.high)
    return raw_error(values, symmetric), raw_error(values, asymmetric)


def best_by_brute_force(values: Values) -> float:
    """The least product of the two errors over a dense lattice of ranges, from the raw values."""
    least, most = float(values.min()), float(values.max())
    lows = least * np.geomspace(1, 1 / 40, 30) if least < 0 else np.array([least])
    highs = most * np.geomspace(1, 1 / 40, 30) if most > 0 else np.array([most])
    ranges = [Range(float(low), float(high)) for low in lows for high in highs if low <= high]
    return min(float(np.prod(raw_errors(values, each))) for each in ranges)


@pytest.mark.parametrize("tensor", _TENSORS)
def test_the_error_of_the_histogram_is_that_of_the_raw_values(tensor: str) -> None:
    values = values_of(tensor)
    spread = spread_of(sketch_of(values))
    for share in (1.0, 0.7, 0.3):
        low, high = float(values.min()) * share, float(values.max()) * share
        for grid in (symmetric_grid(low, high), asymmetric_grid(low, high)):
            assert squared_errors(spread, *grid) == pytest.approx(raw_error(values, grid), rel=0.04)


@pytest.mark.parametrize("tensor", _TENSORS)
def test_all_candidates_at_once_have_the_errors_of_one_after_another(
    tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sketch = sketch_of(values_of(tensor))
    spread, found = spread_of(sketch), METHODS["mse"].range_of(sketch)
    shares = np.geomspace(1, 1 / 300, 40)
    lows, highs = sketch.minimum * shares, np.maximum(sketch.maximum * shares[::-1], sketch.minimum * shares)
    for grid in (symmetric_grid(lows, highs), asymmetric_grid(lows, highs)):
        assert squared_errors(spread, *grid) == pytest.approx(plain_errors(spread, *grid), rel=1e-7)
    monkeypatch.setattr(mse, "squared_errors", plain_errors)
    assert METHODS["mse"].range_of(sketch) == found


@pytest.mark.parametrize("tensor", _TENSORS)
def test_mse_is_as_good_as_the_best_of_a_dense_lattice_of_ranges(tensor: str) -> None:
    values = values_of(tensor)[:4000] if tensor != "with an outlier" else values_of(tensor)[-4000:]
    found = METHODS["mse"].range_of(sketch_of(values))
    # 0.2 dB in each of the two errors.
    assert float(np.prod(raw_errors(values, found))) < best_by_brute_force(values) * 1.1


def test_mse_beats_the_extremes_where_an_outlier_is_not_worth_its_scale() -> None:
    values = values_of("with an outlier")
    found, extremes = (METHODS[name].range_of(sketch_of(values)) for name in ("mse", "minmax"))
    for error, before in zip(raw_errors(values, found), raw_errors(values, extremes), strict=True):
        assert error < before
    assert found.high < 60 == extremes.high


@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(-8, 8, width=16)))
@settings(max_examples=60, deadline=None)
def test_mse_is_never_visibly_worse_than_the_extremes(values: Values) -> None:
    sketch = sketch_of(values)
    extremes, found = METHODS["minmax"].range_of(sketch), raw_errors(values, METHODS["mse"].range_of(sketch))
    # Not knowing where in its bin a value lies, half a step off at most, moves its square by a step times a bin.
    blur = values.size * sketch.width * extremes.amax / 127
    limits = [error + 2 * blur for error in raw_errors(values, extremes)]
    assert np.prod(found) <= np.prod(limits)


@given(
    arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e3, 1e3, width=32)),
    st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]),
)
@settings(max_examples=100, deadline=None)
def test_a_percentile_is_that_of_the_sorted_magnitudes_to_one_bin(values: Values, percentile: float) -> None:
    sketch = sketch_of(values)
    magnitudes = np.sort(np.abs(values.astype(np.float64)))
    wanted = magnitudes[max(int(np.ceil(values.size * percentile / 100 - 1e-9)) - 1, 0)]
    found = Percentile(percentile).range_of(sketch)
    for end, extreme in ((found.high, float(values.max())), (-found.low, -float(values.min()))):
        assert min(wanted, extreme) <= end <= min(wanted + sketch.width, extreme)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_relu_lets_through_keeps_zero_as_its_low_end(method: str) -> None:
    found = METHODS[method].range_of(sketch_of(values_of("after a Relu")))
    assert found.low == 0.0
    assert 2.0 < found.high <= values_of("after a Relu").max()


def slow_entropy_threshold(magnitudes: NDArray[np.float64], width: float) -> float:
    """NVIDIA's search written out: every candidate's two distributions in full, the last of the least."""
    bins = magnitudes.copy()
    bins[0] = bins[1]
    divergences = []
    for kept in range(LEVELS, bins.size + 1):
        reference = bins[:kept].copy()
        reference[-1] += bins[kept:].sum()
        level = np.arange(kept) * LEVELS // kept
        used = bins[:kept] > 0
        mass, members = (np.bincount(level, weights, LEVELS) for weights in (bins[:kept], used.astype(np.float64)))
        expanded = np.where(used, (mass / np.maximum(members, 1))[level], 0.0)
        p, q = reference / reference.sum(), expanded / expanded.sum()
        here = p > 0
        infinite = bool((q[here] == 0).any())
        divergences.append(np.inf if infinite else float((p[here] * np.log(p[here] / q[here])).sum()))
    best = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    return float((best + LEVELS) * width)


@pytest.mark.parametrize("tensor", ["after a Relu", "negative", "after a SiLU", "with an outlier"])
def test_entropy_is_that_of_the_published_search_for_one_sided_and_skewed_tensors(tensor: str) -> None:
    values = values_of(tensor)
    found, sketch = METHODS["entropy"].range_of(sketch_of(values)), sketch_of(values)
    magnitudes = sketch.magnitudes.reshape(2048, -1).sum(axis=1).astype(np.float64)
    threshold = slow_entropy_threshold(np.trim_zeros(magnitudes, "b"), 2 * sketch.width)
    assert found.high == min(threshold, float(values.max()))
    assert found.low == max(-threshold, float(values.min()))


def test_a_method_is_read_from_the_text_that_is_written_for_it() -> None:
    for text in ("minmax", "entropy", "mse", "percentile:99.9", "percentile:99.999"):
        assert text_from_method(method_from_text(text)) == text
    assert method_from_text("percentile") == Percentile(99.999)
    assert text_from_method(Percentile()) == "percentile:99.999"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("percentil", "calibration method 'percentil' is unknown; choose from minmax, percentile, entropy, mse"),
        ("entropy:3", "method 'entropy' has no setting; write 'entropy' alone, found 'entropy:3'"),
        ("percentile:most", "method 'percentile:most': 'most' is no number; write 'percentile:99.999'"),
        ("percentile:0.9999", "percentile is 0.9999; it is a percentage of the values, from 50 to 100, such as 99.99"),
        ("percentile:nan", "percentile is nan; it is a percentage"),
    ],
)
def test_a_method_that_cannot_be_meant_is_answered_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        method_from_text(text)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("mse", "mse"),
        ("percentile", "percentile:99.999"),
        ("percentile:99.90", "percentile:99.9"),
        ({"name": "percentile", "percentile": 99.9}, "percentile:99.9"),
        ({"name": "percentile", "percentile": 100}, "percentile:100"),
        ({"name": "minmax"}, "minmax"),
    ],
)
def test_a_recipe_names_a_method_alone_or_with_its_setting(written: object, text: str) -> None:
    assert checked_method(written) == text


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (3, "method must be a name or a table with a name, found 3"),
        ({"percentile": 99.9}, "method must be a name or a table with a name, one of entropy, minmax, mse, percentile"),
        ({"name": "percentil"}, "method 'percentil' is unknown; did you mean 'percentile'?"),
        (
            {"name": "percentile", "share": 99.9},
            "'percentile' has no key 'share'; its keys are name, percentile",
        ),
        ({"name": "mse", "bins": 9}, "method 'mse' has no key 'bins'; its keys are name"),
        ({"name": "percentile", "percentile": "99"}, "method 'percentile': percentile must be a number, found '99'"),
        ("entropi:3", "method 'entropi' is unknown; did you mean 'entropy'?"),
        ("percentile:0.5", "percentile is 0.5; it is a percentage"),
    ],
)
def test_a_mistaken_method_of_a_recipe_is_answered_with_what_to_write(written: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_method(written)
