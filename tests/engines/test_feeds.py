"""Random tensors for a session that nothing real is at hand for."""

from __future__ import annotations

import numpy as np
import pytest

from engines.base import TensorInfo
from engines.errors import EngineError
from engines.feeds import random_feeds

ROWS = (TensorInfo("rows", "float32", (-1, -1, 8)), TensorInfo("mask", "int32", (-1, -1)))
SHAPES = {"rows": (24, 8), "mask": (24,)}


def test_open_axes_take_their_sizes_from_the_shape_of_a_sample_and_nothing_is_padding() -> None:
    feeds = random_feeds(ROWS, 3, 0, SHAPES)
    assert {name: (array.shape, array.dtype.name) for name, array in feeds.items()} == {
        "rows": ((3, 24, 8), "float32"),
        "mask": ((3, 24), "int32"),
    }
    assert feeds["rows"].std() > 0.5
    assert (feeds["mask"] == 1).all()


@pytest.mark.parametrize(("dtype", "distinct"), [("uint8", 200), ("int64", 1), ("bool", 1)])
def test_bytes_are_any_and_indices_are_valid(dtype: str, distinct: int) -> None:
    [values] = random_feeds([TensorInfo("x", dtype, (-1, 1000))], 2, 0).values()
    assert len(np.unique(values)) >= distinct
    assert values.dtype == dtype
    if distinct == 1:
        assert not values.any()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (
            (24, 9),
            r"input 'rows' has shape \[any, any, 8\]: no tensor of batch size 3 and samples of \[24, 9\] follows",
        ),
        ((24,), r"no tensor of batch size 3 and samples of \[24\] follows from it; give real inputs or the shape of a"),
        ((-1, 8), r"no tensor of batch size 3 and samples of \[any, 8\] follows from it"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(EngineError, match=said):
        random_feeds(ROWS, 3, 0, {**SHAPES, "rows": shape})
