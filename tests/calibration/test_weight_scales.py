"""Scales of weights by the largest one and by the least squared error, beside brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_networks import residual

from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.ranges import ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from calibration.weights import weight_scales
from pipeline.quantizing.settings import checked_weights

_WEIGHTS = arrays(np.float32, (3, 12), elements=st.floats(-4, 4, width=16))


def squared_error(channel: NDArray[np.float32], scale: float, limit: int) -> float:
    exact = channel.astype(np.float64)
    return float(np.square(exact - scale * np.clip(np.rint(exact / scale), -limit, limit)).sum())


@pytest.mark.parametrize("limit", [127, 64])
@pytest.mark.parametrize("axis", [0, 1])
def test_mse_finds_what_a_dense_search_finds(limit: int, axis: int) -> None:
    weight = np.random.default_rng(0).standard_t(4, size=(6, 2000)).astype(np.float32)
    found = weight_scales(weight if axis == 0 else weight.T.copy(), axis, limit, method="mse")
    for channel, scale in zip(weight, found, strict=True):
        largest = float(np.abs(channel).max()) / limit
        best = min(squared_error(channel, largest * share, limit) for share in np.linspace(0.4, 1.0, 400))
        assert squared_error(channel, float(scale), limit) < 1.02 * best
        assert squared_error(channel, float(scale), limit) <= squared_error(channel, largest, limit)


@given(_WEIGHTS, st.sampled_from([127, 64]))
@settings(max_examples=60, deadline=None)
def test_mse_is_never_worse_than_max_and_its_scale_never_larger(weight: NDArray[np.float32], limit: int) -> None:
    by_max, by_mse = (weight_scales(weight, 0, limit, method=method) for method in ("max", "mse"))
    assert (by_mse <= by_max).all()
    for channel, one, other in zip(weight, by_max, by_mse, strict=True):
        worst = squared_error(channel, float(one), limit)
        assert squared_error(channel, float(other), limit) <= worst * (1 + 1e-4) + 1e-9


def test_the_bound_of_an_int32_bias_holds_for_both() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    least = np.array([0.5, 1e-9, 0.02])
    for method in ("max", "mse"):
        scales = weight_scales(weight, 0, 127, least, method)
        assert (scales >= least.astype(np.float32)).all()
        assert scales[0] == np.float32(0.5)


@pytest.mark.parametrize(("family", "limit"), [("cpu-avx2", 64), ("cpu-vnni", 127), ("tensorrt", 127)])
def test_a_graph_of_mse_weights_stays_within_the_bits_of_its_family(family: str, limit: int) -> None:
    model = prepared(residual())
    values = np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32)
    ranges = ranges_from_sketches(
        collect(model, [Batch([str(i) for i in range(8)], {"image": values})], threads=1), "minmax"
    )
    placement = place(model, family)
    found, plain = (quantize(model, ranges, placement, weights=method) for method in ("mse", "max"))
    stored, by_max = ({t.name: numpy_helper.to_array(t) for t in graph.graph.initializer} for graph in (found, plain))
    for weight in placement.weights:
        integers = stored[f"{weight.tensor}_quantized"].astype(np.int32)
        assert np.abs(integers).max() == limit
        assert (stored[f"{weight.tensor}_scale"] <= by_max[f"{weight.tensor}_scale"]).all()
    assert any((stored[name] != by_max[name]).any() for name in stored if name.endswith("_scale"))


def test_an_unknown_way_to_scale_weights_is_answered_with_the_choice() -> None:
    assert (checked_weights("max"), checked_weights("mse")) == ("max", "mse")
    with pytest.raises(ValueError, match="weights 'mes' is unknown; did you mean 'mse'"):
        checked_weights("mes")
