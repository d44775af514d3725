"""Attention masks of -inf, as torch's own attention writes them: no poison, and no part of a range."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

from calibration.errors import PoisonedData
from calibration.statistics.collect import Batch, collect

HEAD = """<ir_version: 10, opset_import: ["": 18]>
net (float[N, 4] scores, bool[N, 4] padding) => (float[N, 4] y) {
  masked = Where (padding, out, scores)
"""
SHARES = "moved = Reshape (masked, same) shares = Softmax (moved) y = MatMul (shares, w)"
IDS = ("a", "b", "c")


def model(rest: str = SHARES, masks_with: float = -np.inf) -> ModelProto:
    """Scores with -inf where there is padding, and what is done with them."""
    found = parser.parse_model(f"{HEAD}{rest}\n}}")
    constants: dict[str, NDArray[np.generic]] = {
        "out": np.array(masks_with, np.float32),
        "w": np.eye(4, dtype=np.float32),
        "same": np.array([-1, 4], np.int64),
    }
    found.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnx.shape_inference.infer_shapes(found)


def batch(scores: NDArray[np.float32] | None = None) -> Batch:
    padding = np.array([[False] * 4, [False, False, True, True], [False, True, True, True]])
    values = np.arange(1, 13, dtype=np.float32).reshape(3, 4) if scores is None else scores
    return Batch(IDS, {"scores": values, "padding": padding})


@pytest.mark.parametrize("masks_with", [-np.inf, float(np.finfo(np.float32).min)])
def test_what_a_mask_takes_out_of_a_softmax_is_no_poison_and_widens_no_range(masks_with: float) -> None:
    sketches = collect(model(masks_with=masks_with), [batch()], threads=1)
    for tensor in ("masked", "moved"):
        assert (sketches.tensors[tensor].minimum, sketches.tensors[tensor].maximum) == (0, 9)
    assert sketches.tensors["scores"].maximum == 12


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_and_positive_infinity_are_poison_in_a_mask_too(poison: float) -> None:
    scores = np.ones((3, 4), np.float32)
    scores[2, 0] = poison
    with pytest.raises(PoisonedData, match=r"image 'c' makes tensor 'scores' hold"):
        collect(model(), [batch(scores)], threads=1)


def test_a_row_that_is_all_padding_is_poison_where_the_softmax_makes_nan_of_it() -> None:
    given = batch()
    given.feeds["padding"][1] = True
    with pytest.raises(PoisonedData, match="image 'b' makes tensor 'shares' hold nan"):
        collect(model(), [given], threads=1)


@pytest.mark.parametrize(
    "rest",
    ["y = MatMul (masked, w)", "shares = Softmax (masked) y = Sub (masked, shares)"],
    ids=["a product reads it", "one of two readers is no softmax"],
)
def test_minus_infinity_that_reaches_anything_but_a_softmax_stays_poison(rest: str) -> None:
    with pytest.raises(PoisonedData, match="image 'b' makes tensor 'masked' hold -inf"):
        collect(model(rest), [batch()], threads=1)
