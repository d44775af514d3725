"""Weights on disk: read without running code, and only where they fit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from small_training import context_in

from pipeline.artifact import Teacher
from pipeline.errors import IntegrityError, NotAcceptable, RecipeError
from pipeline.files.atomic import write_json
from pipeline.files.digest import sha256_of_file
from pipeline.models.interface import IMAGE, IMAGE_AXES, InputSpec, Interface
from pipeline.models.model import Model, UserModel, make_model
from pipeline.models.weights import load_network, load_weights, network_document, write_weights
from pipeline.networks import PlainNetwork

State = dict[str, torch.Tensor]
IMAGES = Interface((InputSpec(IMAGE, "float32", (1, 8, 8), IMAGE_AXES),), {"logits": (3,)}, 3)


class Bomb:
    """Unpickling it runs a command of the shell."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self._mark}",))


def network() -> PlainNetwork:
    return PlainNetwork(1, [4, 8], 3)


@pytest.fixture
def state() -> State:
    torch.manual_seed(1)
    return dict(network().state_dict())


def loaded(path: Path) -> State:
    target = network()
    load_weights(target, path)
    return target.state_dict()


def refused(path: Path, error: type[Exception] = RecipeError) -> str:
    before = network()
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    with pytest.raises(error) as caught:
        load_weights(before, path)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in before.state_dict().items())
    return str(caught.value)


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path, state: State) -> None:
    write_weights(tmp_path / "w.safetensors", state)
    assert_same(loaded(tmp_path / "w.safetensors"), state)


def test_the_same_weights_are_the_same_bytes_whatever_their_order_and_layout(tmp_path: Path, state: State) -> None:
    write_weights(tmp_path / "a.safetensors", state)
    strided = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    write_weights(tmp_path / "b.safetensors", dict(reversed(strided.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
    ids=["plain", "state_dict", "model", "data parallel"],
)
@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_a_pt_is_read_in_the_ways_people_save_it(
    tmp_path: Path, state: State, wrapped: Callable[[State], object], suffix: str
) -> None:
    torch.save(wrapped(state), tmp_path / f"w.{suffix}")
    assert_same(loaded(tmp_path / f"w.{suffix}"), state)


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_a_pt_that_holds_code_is_refused_and_the_code_not_run(tmp_path: Path, state: State, how: str) -> None:
    file, mark = tmp_path / "w.pt", tmp_path / "exploded"
    content = {**state, "head.weight": Bomb(mark)}
    if how == "torch.save":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(mark)))
    assert refused(file) == (
        f"{file}: holds more than tensors or is damaged, and nothing in it was run; "
        "write it again with torch.save(model.state_dict(), 'w.pt')"
    )
    assert not mark.exists()
    # The bomb is live: this is what would have happened.
    pickle.loads(pickle.dumps(Bomb(mark)))  # noqa: S301
    assert mark.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 1000])
def test_a_pt_that_was_cut_off_is_refused(tmp_path: Path, state: State, kept: int) -> None:
    file = tmp_path / "w.pt"
    torch.save(state, file)
    file.write_bytes(file.read_bytes()[:kept])
    assert refused(file).startswith(f"{file}: holds more than tensors or is damaged, and nothing in it was run; ")


def test_a_whole_model_or_text_in_a_pt_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "model.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("model", "text"):
        assert "holds more than tensors or is damaged" in refused(tmp_path / f"{name}.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_a_pt_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert refused(tmp_path / "w.pt") == (
        f"{tmp_path / 'w.pt'}: holds no state dict; write it with torch.save(model.state_dict(), 'w.pt')"
    )


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_safetensors_that_were_cut_off_are_refused(tmp_path: Path, state: State, kept: int) -> None:
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    file.write_bytes(file.read_bytes()[:kept])
    assert refused(file).startswith(f"{file}: is not a whole safetensors file (")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.weight": torch.zeros(5, 8)}, "head.weight has shape (5, 8), the model (3, 8)"),
        ({"head.weight": None}, "head.weight is missing"),
        ({"tail.weight": torch.zeros(1)}, "tail.weight is not in the model"),
        (
            {"head.weight": None, "tail.weight": torch.zeros(1), "head.bias": torch.zeros(4)},
            "head.bias has shape (4,), the model (3,); head.weight is missing; tail.weight is not in the model",
        ),
    ],
)
def test_weights_of_another_model_are_told_apart_by_tensor(
    tmp_path: Path, state: State, change: dict[str, torch.Tensor | None], message: str
) -> None:
    changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
    file = tmp_path / "w.safetensors"
    save_file(changed, file)
    assert refused(file) == f"{file}: does not fit the model: {message}"


def test_many_differences_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    missing = len(network().state_dict())
    assert refused(file).endswith(f" and {missing + 1 - 3} more")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_tensor(tmp_path: Path, state: State, value: float) -> None:
    file = tmp_path / "w.safetensors"
    state["head.weight"][1, 1] = value
    save_file(state, file)
    assert refused(file, NotAcceptable) == (
        f"{file}: tensor head.weight holds NaN or infinite values; export the weights again"
    )


def test_a_recorded_network_comes_back_frozen_and_in_evaluation_mode(tmp_path: Path, state: State) -> None:
    write_weights(tmp_path / "teacher.safetensors", state)
    model = {"name": "plain", "widths": [4, 8]}
    write_json(tmp_path / "model.json", {"model": model, "files": {}, "interface": IMAGES.to_json()})
    found = load_network(Teacher(tmp_path), "teacher.safetensors", context_in(tmp_path))
    assert_same(found.state_dict(), state)
    assert not any(module.training for module in found.modules())
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_a_network_of_the_users_is_recorded_with_its_files_digest_and_not_made_from_another_one(
    tmp_path: Path,
) -> None:
    source = "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    (tmp_path / "models.py").write_text(source)
    model = UserModel(file="models.py:make")
    made = model.make(IMAGES, tmp_path)
    write_weights(tmp_path / "teacher.safetensors", made.state_dict())
    document = network_document(made, model, IMAGES, tmp_path)
    write_json(tmp_path / "model.json", document)
    assert document["files"] == {"models.py:make": sha256_of_file(tmp_path / "models.py")}
    load_network(Teacher(tmp_path), "teacher.safetensors", context_in(tmp_path))

    (tmp_path / "models.py").write_text(source + "# changed\n")

    assert network_document(made, model, IMAGES, tmp_path)["files"] != document["files"]
    with pytest.raises(IntegrityError, match=r"models\.py: changed since the network was made; run again"):
        load_network(Teacher(tmp_path), "teacher.safetensors", context_in(tmp_path))


def test_a_network_of_several_inputs_is_made_again_from_its_document(tmp_path: Path) -> None:
    sequences = Interface(
        (InputSpec("tokens", "int64", (5,), ("length",)), InputSpec("mask", "float32", (5,), ("length",))),
        {"logits": (5, 3)},
        3,
    )
    written = {"name": "transformer", "width": 8, "depth": 1, "heads": 2, "vocabulary": 7}
    model = TypeAdapter[Any](Model).validate_python(written)
    made = make_model(model, sequences, tmp_path).eval()
    document = network_document(made, model, sequences, tmp_path)
    write_weights(tmp_path / "teacher-2.safetensors", made.state_dict())
    write_json(tmp_path / "model-2.json", document)
    assert sorted(document) == ["files", "interface", "model", "parameters"]

    again = load_network(Teacher(tmp_path), "teacher-2.safetensors", context_in(tmp_path), "model-2.json")

    inputs = (torch.tensor([[1, 2, 3]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert torch.equal(again(*inputs), made(*inputs))


def test_each_of_several_networks_has_its_own_document(tmp_path: Path) -> None:
    for number, widths in (("", [4]), ("-2", [4, 8])):
        model = TypeAdapter[Any](Model).validate_python({"name": "residual", "widths": widths})
        made = make_model(model, IMAGES, tmp_path)
        write_weights(tmp_path / f"teacher{number}.safetensors", made.state_dict())
        write_json(tmp_path / f"model{number}.json", network_document(made, model, IMAGES, tmp_path))
    teacher, context = Teacher(tmp_path), context_in(tmp_path)
    load_network(teacher, "teacher.safetensors", context)
    load_network(teacher, "teacher-2.safetensors", context, "model-2.json")
    with pytest.raises(RecipeError, match=r"teacher-2\.safetensors: does not fit the model: "):
        load_network(teacher, "teacher-2.safetensors", context)


def test_a_recorded_network_whose_weights_are_not_finite_is_not_acceptable(tmp_path: Path, state: State) -> None:
    state["head.bias"][0] = float("nan")
    write_weights(tmp_path / "teacher.safetensors", state)
    model = {"name": "plain", "widths": [4, 8]}
    write_json(tmp_path / "model.json", {"model": model, "files": {}, "interface": IMAGES.to_json()})
    with pytest.raises(NotAcceptable, match=r"tensor head\.bias holds NaN or infinite values"):
        load_network(Teacher(tmp_path), "teacher.safetensors", context_in(tmp_path))
