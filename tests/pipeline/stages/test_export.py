"""The export stage on real networks: which axes it opens, and at which sizes it looks whether the graph is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from dynamic_networks import IMAGES, ROWS, SEQUENTIAL, SPATIAL, EncoderDecoder, Transformer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from small_training import context_in, splits_in
from torch import Tensor, nn

from pipeline.artifact import Artifacts, Splits, Student
from pipeline.data.dataset import read_interface
from pipeline.errors import NotAcceptable, RecipeError
from pipeline.exporting.exporter import exported
from pipeline.exporting.parity import OutputParity, ReferenceSession, Tolerance, require_parity
from pipeline.exporting.parity_check import ParityCheck, nearby_sizes, random_inputs
from pipeline.files import atomic
from pipeline.models.interface import MASK, InputSpec, Interface
from pipeline.models.model import Model, make_model
from pipeline.models.weights import network_document, write_weights
from pipeline.stages.export import Export

TOLERANCE = Tolerance(1e-4, 1e-4)


class Fixed(nn.Module):
    """Takes images of 32 by 32 alone, and does not say so to the exporter."""

    def forward(self, images: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and images.shape[2] != 32:
            raise ValueError("only 32")
        return images * 2


class Forgetful(nn.Module):
    """What it does to wide images is lost in the graph."""

    def forward(self, images: Tensor) -> Tensor:
        return images * (2 if torch.compiler.is_compiling() or images.shape[3] < 40 else 3)


def check(network: nn.Module, interface: Interface, dynamic: tuple[str, ...], folder: Path) -> ParityCheck:
    outputs = tuple(interface.outputs)
    model = exported(network, interface, outputs, 18, dynamic)
    onnx.save(model, folder / "model.onnx")
    return ParityCheck(network, interface, outputs, dynamic, ReferenceSession(folder / "model.onnx", 1), TOLERANCE)


def real(interface: Interface, size: int) -> dict[str, np.ndarray[Any, Any]]:
    return {name: each.numpy() for name, each in zip(interface.input_names, interface.zeros(size), strict=True)}


def looked_at(results: list[OutputParity]) -> set[tuple[tuple[str, int], ...]]:
    return {tuple(result.sizes.items()) for result in results}


def test_each_axis_is_looked_at_smaller_and_larger_while_the_others_stay(tmp_path: Path) -> None:
    checked = check(EncoderDecoder(), IMAGES, SPATIAL, tmp_path)
    results = list(checked.results([real(IMAGES, 1), real(IMAGES, 3)], seed=0))
    require_parity(results, TOLERANCE)
    wanted = ((32, 32), (16, 32), (48, 32), (32, 16), (32, 48))
    assert looked_at(results) == {(("height", height), ("width", width)) for height, width in wanted}
    assert [(each.inputs, each.batch_size) for each in results[:4]] == [
        ("real", 1), ("random", 1), ("real", 3), ("random", 3)
    ]  # fmt: skip


def test_every_output_of_a_network_of_several_inputs_is_compared_at_every_length(tmp_path: Path) -> None:
    checked = check(Transformer(), ROWS, SEQUENTIAL, tmp_path)
    results = list(checked.results([real(ROWS, 2)], seed=0))
    require_parity(results, TOLERANCE)
    assert {(each.output, each.sizes["length"]) for each in results} == {
        (output, length) for output in ("logits", "tokens") for length in (24, 12, 36)
    }


def test_a_size_that_the_network_refuses_is_left_out_for_one_that_it_takes(tmp_path: Path) -> None:
    # Half of 20 is 10, which 4 does not divide; one and a half times is 30.
    image = InputSpec("input", "float32", (3, 20, 32), ("channels", "height", "width"))
    interface = Interface((image,), {"logits": None}, 5)
    checked = check(EncoderDecoder(), interface, ("batch", "height"), tmp_path)
    results = list(checked.results([real(interface, 2)], seed=0))
    require_parity(results, TOLERANCE)
    assert looked_at(results) == {(("height", height),) for height in (20, 8, 32)}


def test_a_length_beyond_the_longest_is_not_looked_at(tmp_path: Path) -> None:
    rows, mask = (InputSpec(s.name, s.dtype, (60, *s.shape[1:]), s.axes) for s in ROWS.inputs)
    interface = Interface((rows, mask), ROWS.outputs, 6)
    checked = check(Transformer(), interface, SEQUENTIAL, tmp_path)
    assert looked_at(list(checked.results([real(interface, 2)], seed=0))) == {(("length", 60),), (("length", 30),)}


def test_a_network_that_runs_at_one_size_alone_is_refused(tmp_path: Path) -> None:
    checked = check(Fixed(), IMAGES, ("batch", "height"), tmp_path)
    said = r"^the network runs at height 32 alone: .* take 'height' out of \[export\] dynamic$"
    with pytest.raises(NotAcceptable, match=said):
        list(checked.results([real(IMAGES, 1)], seed=0))


def test_a_graph_that_is_right_at_the_size_of_the_data_alone_is_refused(tmp_path: Path) -> None:
    checked = check(Forgetful(), IMAGES, SPATIAL, tmp_path)
    results = list(checked.results([real(IMAGES, 1)], seed=0))
    with pytest.raises(NotAcceptable, match=r"on random inputs, batch 1, height 32, width 48, differs by"):
        require_parity(results, TOLERANCE)


@given(st.integers(1, 5000))
def test_sizes_near_by_are_smaller_or_larger_and_a_multiple_of_64_is_among_the_larger(size: int) -> None:
    smaller, larger = nearby_sizes(size)
    assert all(0 < each < size for each in smaller)
    assert all(size < each for each in larger)
    assert any(each % 64 == 0 for each in larger)
    if size > 1:
        assert smaller[0] == size // 2


def test_random_inputs_are_normal_are_among_the_real_ones_or_are_ones_before_zeros() -> None:
    specs = (
        InputSpec("rows", "float32", (5,), ("length",)),
        InputSpec("tokens", "int64", (5,), ("length",)),
        InputSpec(MASK, "int32", (5,), ("length",)),
    )
    given_ = {
        "rows": np.zeros((300, 5), "f"),
        "tokens": np.array([[3, 7, 7, 3, 9]] * 300),
        MASK: np.ones((300, 5), "i"),
    }
    found = random_inputs(Interface(specs, {}, 1), given_, np.random.default_rng(0))
    assert {name: array.dtype.name for name, array in found.items()} == {spec.name: spec.dtype for spec in specs}
    assert 0.9 < found["rows"].std() < 1.1
    assert set(found["tokens"].ravel()) == {3, 7, 9}
    assert set(found[MASK].sum(1)) == {1, 2, 3, 4, 5}
    assert (np.diff(found[MASK], axis=1) <= 0).all()


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows of digits, split."""
    folder = tmp_path_factory.mktemp("sequences")
    splits_in(folder, task="sequence-classification", source="digit-rows")
    return folder


def student_in(folder: Path, splits: Splits) -> Student:
    """An untrained transformer, as the distillation leaves one."""
    context = context_in(folder, task="sequence-classification")
    interface = read_interface(splits, context)
    model = TypeAdapter[Any](Model).validate_python(
        {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "longest": 64}
    )
    torch.manual_seed(0)
    network = make_model(model, interface, folder)
    write_weights(folder / "student.safetensors", network.state_dict())
    atomic.write_json(folder / "model.json", network_document(network, model, interface, folder))
    return Student(folder)


def test_the_stage_writes_a_graph_of_open_length_and_what_it_was_compared_on(sequences: Path, tmp_path: Path) -> None:
    splits = Splits(sequences / "splits")
    stage = Export.model_validate({"dynamic": ("batch", "length"), "parity": {"batches": (1, 4)}})
    context = context_in(tmp_path, task="sequence-classification")
    stage.run(Artifacts([splits, student_in(sequences, splits)]), tmp_path, context)
    graph = onnx.load(tmp_path / "model.onnx").graph
    named = {value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in graph.input}
    assert named == {"rows": ["batch", "length", ""], "mask": ["batch", "length"]}
    records = json.loads((tmp_path / "parity.json").read_text())
    assert {(each["inputs"], each["batch_size"], each["sizes"]["length"]) for each in records} == {
        ("real", 1, 32), ("random", 1, 32), ("real", 4, 32), ("random", 4, 32), ("random", 4, 16), ("random", 4, 48)
    }  # fmt: skip
    assert all(each["within"] for each in records)


def test_an_axis_that_the_data_has_not_is_a_mistake_of_the_recipe_found_before_anything_is_trained(
    sequences: Path, tmp_path: Path
) -> None:
    stage = Export.model_validate({"dynamic": ("batch", "lenght")})
    said = (
        r"^\[export\] dynamic: axis 'lenght' is unknown; did you mean 'length'\? choose from batch, features, length$"
    )
    with pytest.raises(RecipeError, match=said):
        stage.rehearse(Artifacts([Splits(sequences / "splits")]), context_in(tmp_path, task="sequence-classification"))


@pytest.mark.parametrize(
    ("dynamic", "said"),
    [
        (("length",), "'batch' is always dynamic; add it"),
        (("batch", "batch"), "'batch' stands twice"),
        (("batch", "sequence length"), "'sequence length' names no dimension of an ONNX graph; call the axis a word"),
    ],
)
def test_axes_that_cannot_be_meant_are_refused(dynamic: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Export.model_validate({"dynamic": dynamic})
