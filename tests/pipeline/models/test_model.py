"""A model as a recipe names it: written, read back, and made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import RecipeError
from pipeline.models.interface import IMAGE, IMAGE_AXES, InputSpec, Interface
from pipeline.models.model import Model, make_model, model_tools, parameter_count

MODEL: TypeAdapter[Any] = TypeAdapter(Model)


def of_image(shape: tuple[int, int, int] = (1, 8, 8), output: tuple[int, ...] | None = (3,)) -> Interface:
    return Interface((InputSpec(IMAGE, "float32", shape, IMAGE_AXES),), {"logits": output}, 3)


IMAGES = of_image()


@settings(deadline=None, max_examples=8)
@given(st.sampled_from(["plain", "residual"]), st.lists(st.integers(1, 8), min_size=1, max_size=4), st.integers(1, 3))
def test_a_built_in_network_takes_any_size_of_image(name: str, widths: list[int], channels: int) -> None:
    model = MODEL.validate_python({"name": name, "widths": widths})
    for side in (1, 5, 8):
        network = make_model(model, of_image((channels, side, side + 1), (4,)), Path())
        assert network.training
        assert parameter_count(network) == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"), [("plain", 4 * 9 + 8 + 8 * 4 * 9 + 16 + 8 * 3 + 3), ("residual", 44 + 304 + 944 + 27)]
)
def test_a_built_in_network_has_the_parameters_of_its_layers(name: str, parameters: int) -> None:
    network = make_model(MODEL.validate_python({"name": name, "widths": [4, 8]}), IMAGES, Path())
    assert parameter_count(network) == parameters


def test_the_random_state_alone_decides_the_weights() -> None:
    model = MODEL.validate_python({"name": "residual", "widths": [4]})

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        tensor: torch.Tensor = make_model(model, IMAGES, Path()).state_dict()["stem.0.weight"]
        return tensor

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize(
    "document",
    [
        {"name": "plain", "widths": [4, 8], "normalization": "group"},
        {
            "name": "residual",
            "widths": [4, 8],
            "depths": [1, 2],
            "block": "bottleneck",
            "stem_stride": 2,
            "normalization": "batch",
        },
        {"name": "segmenter", "widths": [4, 8], "normalization": "batch", "join": "concatenate"},
        {"name": "mobilenet", "size": "small", "width": 0.5, "stem_stride": 1, "normalization": "group"},
        {"name": "efficientnet", "width": 1.1, "depth": 1.2, "stem_stride": 2, "normalization": "batch"},
        {"name": "repvgg", "widths": [4, 8], "depths": [1, 2], "stem_stride": 2},
        {"name": "vision_transformer", "patch": 4, "width": 12, "depth": 2, "heads": 3, "feed_forward": 2},
        {
            "name": "transformer",
            "width": 8,
            "depth": 2,
            "heads": 2,
            "feed_forward": 4,
            "longest": 32,
            "vocabulary": None,
        },
        {"name": "timm:resnet18", "options": {"drop_rate": 0.1}},
        {"file": "models.py:make", "options": {"outputs": 3}},
    ],
)
def test_a_model_is_written_and_read_back_the_same(document: dict[str, Any]) -> None:
    model = MODEL.validate_python(document)
    assert json.loads(json.dumps(model.model_dump(mode="json"))) == document
    assert MODEL.validate_python(model.model_dump(mode="json")) == model
    assert MODEL.validate_python(model) is model


def test_a_network_larger_than_memory_is_refused_with_torchs_reason() -> None:
    model = MODEL.validate_python({"name": "plain", "widths": [65536] * 30})
    with pytest.raises(RecipeError, match=r"^model plain: cannot be made \(.*allocate.*\); use smaller widths$"):
        make_model(model, IMAGES, Path())


@pytest.mark.parametrize("document", ["residual", 3, {}, {"widths": [4]}, {"name": "plain", "file": "m.py:f"}])
def test_a_model_is_named_or_comes_from_a_file(document: object) -> None:
    with pytest.raises(
        ValidationError,
        match=r"give either name = one of efficientnet, mobilenet, .*, transformer, vision_transformer, timm:NAME",
    ):
        MODEL.validate_python(document)


def test_a_library_alone_shapes_a_network_by_its_version() -> None:
    assert model_tools(MODEL.validate_python({"name": "timm:resnet18"})) == ("timm",)
    assert model_tools(MODEL.validate_python({"name": "torchvision:resnet18"})) == ("torchvision",)
    assert model_tools(MODEL.validate_python({"name": "plain", "widths": [4]})) == ()
    assert model_tools(MODEL.validate_python({"file": "models.py:make"})) == ()
