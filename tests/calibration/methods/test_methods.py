"""Calibration methods and the ranges they give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from calibration import FAMILIES, METHODS
from calibration.errors import CalibrationError
from calibration.methods.entropy import LEVELS, kl_divergences
from calibration.methods.method import Range
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.statistics import Sketch, Sketches

_activations = arrays(np.float32, st.integers(1, 400), elements=st.floats(-1e6, 1e6, width=32))


def sketch_of(values: NDArray[np.float32]) -> Sketch:
    sketch = Sketch()
    sketch.update(values)
    return sketch


def slow_kl_divergence(histogram: NDArray[np.float64], kept: int) -> float:
    """The published algorithm, bin by bin: histogram of |x|, `kept` bins, 128 levels."""
    reference = [float(count) for count in histogram[:kept]]
    reference[-1] += float(histogram[kept:].sum())
    level_of = [bin_number * LEVELS // kept for bin_number in range(kept)]
    candidate = [0.0] * kept
    for level in range(LEVELS):
        members = [j for j in range(kept) if level_of[j] == level and histogram[j] > 0]
        for j in members:
            candidate[j] = sum(float(histogram[i]) for i in members) / len(members)
    p_sum, q_sum = sum(reference), sum(candidate)
    divergence = 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p > 0 and q == 0:
            return float("inf")
        if p > 0:
            divergence += p / p_sum * float(np.log((p / p_sum) / (q / q_sum)))
    return divergence


@pytest.mark.parametrize("seed", range(4))
def test_divergences_equal_those_of_the_algorithm_written_out_bin_by_bin(seed: int) -> None:
    random = np.random.default_rng(seed)
    histogram = np.floor(random.exponential(30, 300) * np.exp(-np.arange(300) / 60))
    histogram[random.integers(0, 300, 60)] = 0
    histogram[-1] = 2
    expected = [slow_kl_divergence(histogram, kept) for kept in range(LEVELS, 301)]
    np.testing.assert_allclose(kl_divergences(histogram), expected, rtol=1e-9, atol=1e-12)


def test_entropy_takes_the_widest_threshold_of_least_divergence() -> None:
    random = np.random.default_rng(0)
    sketch = sketch_of(np.concatenate([random.laplace(size=20_000), [40.0]]).astype(np.float32))
    chosen = METHODS["entropy"].range_of(sketch)
    histogram = sketch.magnitudes.reshape(2048, -1).sum(axis=1).astype(np.float64)
    histogram = np.trim_zeros(histogram, "b")
    histogram[0] = histogram[1]
    kept = round(chosen.high / (2 * sketch.width))
    # 2,000 candidates bin by bin take minutes; every 20th and the neighbours of the choice do not.
    others = {*range(LEVELS, histogram.size + 1, 20), *range(kept - 3, kept + 4)}
    divergences = {i: slow_kl_divergence(histogram, i) for i in sorted(others)}
    assert divergences[kept] == min(divergences.values())
    assert 3.0 < chosen.high < 20.0
    assert chosen.low == -chosen.high


def test_a_spike_beside_zero_does_not_move_the_entropy_threshold() -> None:
    bulk = np.random.default_rng(0).laplace(size=20_000).astype(np.float32)
    spike = np.full(200_000, 1e-4, np.float32)
    plain, spiked = (METHODS["entropy"].range_of(sketch_of(v)) for v in (bulk, np.concatenate([bulk, spike])))
    assert spiked == plain


def test_entropy_keeps_all_of_a_few_discrete_values() -> None:
    pixels = np.random.default_rng(0).integers(0, 17, 10_000) / 16
    assert METHODS["entropy"].range_of(sketch_of(pixels.astype(np.float32))) == Range(0.0, 1.0)


@given(_activations)
@settings(max_examples=100, deadline=None)
def test_minmax_is_the_exact_extremes(values: NDArray[np.float32]) -> None:
    assert METHODS["minmax"].range_of(sketch_of(values)) == Range(float(values.min()), float(values.max()))


@pytest.mark.parametrize("method", METHODS)
@given(values=_activations)
@settings(max_examples=100, deadline=None)
def test_no_range_leaves_what_was_seen(method: str, values: NDArray[np.float32]) -> None:
    found = METHODS[method].range_of(sketch_of(values))
    assert values.min() <= found.low <= found.high <= values.max()


@pytest.mark.parametrize("method", METHODS)
@given(values=_activations, exponent=st.integers(-20, 20))
@settings(max_examples=60, deadline=None)
def test_a_range_scales_with_the_data(method: str, values: NDArray[np.float32], exponent: int) -> None:
    # Powers of two, and values away from the subnormal, scale without rounding.
    values = np.where(np.abs(values) < 1e-20, np.float32(0), values)
    found, scaled = (METHODS[method].range_of(sketch_of((values * f).astype(np.float32))) for f in (1.0, 2.0**exponent))
    assert (scaled.low, scaled.high) == (found.low * 2.0**exponent, found.high * 2.0**exponent)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 2.5, -2.5, 1e-40])
def test_a_constant_tensor_gets_the_range_of_its_value(method: str, constant: float) -> None:
    value = float(np.float32(constant))
    assert METHODS[method].range_of(sketch_of(np.full(9, constant, np.float32))) == Range(value, value)


def test_ranges_come_back_from_their_file_bit_for_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {name: sketch_of(random.normal(size=500).astype(np.float32)) for name in ("x", "conv/ä")}
    ranges = ranges_from_sketches(Sketches(5, tensors), "entropy")
    ranges.save(tmp_path / "one.json")
    loaded = Ranges.load(tmp_path / "one.json")
    assert loaded == ranges
    loaded.save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": float("nan")}, "tensor 'x': range .* is not finite"),
        ({"high": float("inf")}, "tensor 'x': range .* is not finite"),
        ({"low": 2.0}, r"tensor 'x': range \[2.0, 1.0\] is empty"),
        ({"low": "much"}, "not a file of ranges"),
    ],
)
def test_a_file_of_ranges_that_was_tampered_with_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "ranges.json"
    entry = {"low": -1.0, "high": 1.0, **change}
    document = {"schema_version": 2, "method": "minmax", "images": 1, "tensors": {"x": entry}}
    path.write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match=rf"ranges\.json: {message}"):
        Ranges.load(path)


def test_ranges_of_another_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_text('{"schema_version": 9}')
    with pytest.raises(CalibrationError, match="schema_version is 9, not 2"):
        Ranges.load(tmp_path / "ranges.json")


def test_a_tensor_that_was_not_measured_is_named() -> None:
    ranges = ranges_from_sketches(Sketches(1, {"x": sketch_of(np.ones(3, np.float32))}), "minmax")
    with pytest.raises(CalibrationError, match="tensor 'y' has no range; calibrate the same prepared graph"):
        ranges.of("y")


def test_an_unknown_method_and_an_empty_pass_are_refused() -> None:
    with pytest.raises(CalibrationError, match="'entropi' is unknown; choose from minmax, percentile, entropy, mse"):
        ranges_from_sketches(Sketches(1), "entropi")
    with pytest.raises(CalibrationError, match="the sketches hold no images"):
        ranges_from_sketches(Sketches(), "minmax")


def test_naming_methods_and_families_loads_neither_onnx_nor_onnxruntime() -> None:
    code = (
        "import sys, calibration, calibration.ranges\n"
        "print(sorted({'onnx', 'onnxruntime', 'torch', 'onnx_ir'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    assert FAMILIES == ("cpu-vnni", "cpu-avx2", "cpu-arm64", "tensorrt", "tensorrt-rtx", "tensorrt-dla")
    assert list(METHODS) == ["minmax", "percentile", "entropy", "mse"]
