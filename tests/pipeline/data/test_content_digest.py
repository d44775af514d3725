"""Samples are told apart by their content."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.content_digest import content_digest


def test_equal_pixels_of_another_shape_or_type_are_other_contents() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    others: list[NDArray[Any]] = [
        image.T,
        image.reshape(4, 3),
        image.astype(np.int8),
        image.astype(np.float32),
        image + 1,
    ]
    assert len({content_digest(each) for each in (image, *others)}) == 6
    assert content_digest(np.asfortranarray(image)) == content_digest(image)


def test_equal_arrays_of_other_names_are_other_contents() -> None:
    array = np.zeros(3)
    found = {content_digest(each) for each in ({"a": array}, {"b": array}, {"a": array, "b": array}, array)}
    assert len(found) == 4
