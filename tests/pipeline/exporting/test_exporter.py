"""torch -> ONNX: the axes that were asked for are open or it is an error, the opset that was asked for, no paths."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch
from dynamic_networks import IMAGES, ROWS, SEQUENTIAL, SPATIAL, EncoderDecoder, Transformer
from torch import Tensor, nn

from pipeline.errors import NotAcceptable
from pipeline.exporting.exporter import exported, source_modules, strip_metadata
from pipeline.models.interface import InputSpec, Interface

SMALL = Interface((InputSpec("input", "float32", (1, 8, 8), ("channels", "height", "width")),), {"logits": (3,)}, 3)


class Stem(nn.Module):
    """A convolution inside a module of its own, the mean of all places, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(images).mean((2, 3)))
        return logits


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.reshape(int(images.shape[0]), -1)) + torch.zeros(len(images), 1)
        return logits


class Halves(nn.Module):
    """`chunk` counts what it gives, so the height becomes a number."""

    def forward(self, images: Tensor) -> Tensor:
        upper, lower = images.chunk(2, 2)
        return upper + lower


class Square(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + images.transpose(2, 3)


class FirstAdded(nn.Module):
    """Broadcasting asks whether the length is 1."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows + rows[:, :1]


class Sorting(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        # What depends on values cannot be traced.
        return images if images.sum() > 0 else -images


class RowsAlone(nn.Module):
    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs[0].sum(1)[:, :6], inputs[0]


def dims(values: object) -> dict[str, list[int | str]]:
    """Of each input or output: the name of a dimension, or its size."""
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values  # type: ignore[attr-defined]  # a protobuf list has no public type
    }


@pytest.mark.parametrize("opset", [18, 23])
def test_the_graph_has_the_opset_that_was_asked_for_a_dynamic_batch_and_its_modules(opset: int) -> None:
    model = exported(Stem(), SMALL, ("logits",), opset)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]
    assert dims(model.graph.input) == {"input": ["batch", 1, 8, 8]}
    assert {"stages.0.0", "stages.0.1", "head"} <= set(source_modules(model).values())

    strip_metadata(model)

    text = model.SerializeToString()
    assert b"test_exporter.py" not in text
    assert b"stack_trace" not in text


def test_the_height_and_width_of_images_are_open_where_the_network_wants_multiples_of_4() -> None:
    model = exported(EncoderDecoder(), IMAGES, ("logits",), 18, SPATIAL)
    assert dims(model.graph.input) == {"input": ["batch", 3, "height", "width"]}
    assert dims(model.graph.output) == {"logits": ["batch", 5, "height", "width"]}


def test_an_axis_that_is_not_asked_for_stays_a_number() -> None:
    model = exported(EncoderDecoder(), IMAGES, ("logits",), 18, ("batch", "width"))
    assert dims(model.graph.input) == {"input": ["batch", 3, 32, "width"]}


def test_several_inputs_share_the_name_of_an_axis_and_outputs_come_in_the_tasks_order() -> None:
    model = exported(Transformer(), ROWS, ("logits", "tokens"), 18, SEQUENTIAL)
    assert dims(model.graph.input) == {"rows": ["batch", "length", 8], "mask": ["batch", "length"]}
    # The network returns a dict in another order.
    outputs = dims(model.graph.output)
    assert outputs == {"logits": ["batch", 6], "tokens": ["batch", "length", 32]}
    assert list(outputs) == ["logits", "tokens"]
    onnx.checker.check_model(model, full_check=True)


def test_an_input_that_the_network_ignores_is_still_one_of_the_graph() -> None:
    model = exported(RowsAlone(), ROWS, ("logits", "tokens"), 18, SEQUENTIAL)
    assert dims(model.graph.input) == {"rows": ["batch", "length", 8], "mask": ["batch", "length"]}


def test_an_axis_of_one_is_open_too() -> None:
    # What asks for the size, and what asks whether it is 1.
    one = Interface((InputSpec("x", "float32", (1, 8), ("length", "features")),), {"y": None}, 1)
    assert dims(exported(FirstAdded(), one, ("y",), 18, SEQUENTIAL).graph.input) == {"x": ["batch", "length", 8]}
    single = replace(ROWS, inputs=tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in ROWS.inputs))
    model = exported(Transformer(), single, ("logits", "tokens"), 18, SEQUENTIAL)
    assert dims(model.graph.input) == {"rows": ["batch", "length", 8], "mask": ["batch", "length"]}


def test_a_batch_that_is_turned_into_a_number_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(NotAcceptable, match=r"takes batches of 2 alone: .* use x\.flatten\(1\)"):
        exported(FixedBatch(), SMALL, ("logits",), 18)


def test_another_axis_that_is_turned_into_a_number_is_refused_with_what_to_write_instead() -> None:
    said = r"takes 'input' of height 8 alone: .* x\.chunk\(n\) .*, or take 'height' out of \[export\] dynamic$"
    with pytest.raises(NotAcceptable, match=said):
        exported(Halves(), SMALL, ("logits",), 18, SPATIAL)


def test_axes_that_the_network_wants_equal_are_refused() -> None:
    with pytest.raises(NotAcceptable, match=r"takes inputs 'input' only where 'width' is height; take 'width' out of"):
        exported(Square(), SMALL, ("logits",), 18, SPATIAL)


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    with pytest.raises(NotAcceptable, match=r"^the network cannot be exported: "):
        exported(Sorting(), SMALL, ("logits",), 18)
