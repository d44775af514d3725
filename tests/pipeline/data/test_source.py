"""Where samples come from, as `[data]` says it, and what contradicts it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from small_training import AXES

from pipeline.stages.data import Data


def test_the_order_of_the_inputs_is_part_of_the_settings() -> None:
    one, other = ({"npz": "data.npz", "inputs": dict(pairs)} for pairs in (AXES.items(), reversed(AXES.items())))
    settings = [Data.model_validate(each).model_dump(mode="json") for each in (one, other)]
    assert settings[0] != settings[1]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "preprocess": ({"preprocess": {"scale": 2.0}}, "preprocess is for images; inputs that are no images are fed as"),
    "augment": ({"augment": {"zoom": 0.1}}, "augment is for images; inputs that are no images are fed as they are"),
    "a source": ({"npz": None, "source": "digits"}, "inputs name the arrays of a npz or a factory; 'digits' brings"),
    "a folder": ({"npz": None, "folder": "x"}, "inputs name the arrays of a npz or a factory; 'x' brings its own"),
    "a mask of two axes": (
        {"inputs": {"mask": ("length", "features")}},
        'inputs.mask says what is padding, so it has one axis, such as ["length"]',
    ),
    "the batch": ({"inputs": {"rows": ("batch",)}}, "'batch' names something else; choose another name"),
    "labels": ({"inputs": {"labels": ("length",)}}, "'labels' names something else; choose another name"),
    "a name with a dot": ({"inputs": {"a.b": ("length",)}}, "'a.b' cannot name an input or an axis; write letters"),
    "an axis twice": ({"inputs": {"rows": ("length", "length")}}, "'length' stands twice; write it once"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_inputs_that_contradict_the_rest_are_refused(what: str) -> None:
    change, message = REFUSED[what]
    with pytest.raises(ValidationError) as caught:
        Data.model_validate({"npz": "data.npz", "inputs": AXES, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["preprocess", "augment"])
def test_the_digit_rows_are_no_images(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} is for images"):
        Data.model_validate({"source": "digit-rows", key: {}})
