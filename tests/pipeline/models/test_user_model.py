"""A network that a user's own file makes: how the file is read, what it may return, and how it is tried."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from pipeline.errors import RecipeError
from pipeline.models.interface import IMAGE, IMAGE_AXES, MASK, InputSpec, Interface
from pipeline.models.model import Model, make_model, model_files

MODEL: TypeAdapter[Any] = TypeAdapter(Model)


def of_image(shape: tuple[int, int, int] = (1, 8, 8), output: tuple[int, ...] | None = (3,)) -> Interface:
    return Interface((InputSpec(IMAGE, "float32", shape, IMAGE_AXES),), {"logits": output}, 3)


IMAGES = of_image()


ROWS = Interface(
    (InputSpec("rows", "float32", (5, 4), ("length", "features")), InputSpec(MASK, "int64", (5,), ("length",))),
    {"logits": (3,)},
    3,
)


BOXES = Interface(IMAGES.inputs, {"boxes": (7, 4), "scores": None}, 3)


LINEAR = """\
import torch


def make(outputs=3):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, outputs))
"""


def made(folder: Path, source: str = LINEAR, interface: Interface = IMAGES, **options: Any) -> torch.nn.Module:
    (folder / "models.py").write_text(source, encoding="utf-8")
    return make_model(MODEL.validate_python({"file": "models.py:make", "options": options}), interface, folder)


def refused(folder: Path, source: str, interface: Interface = IMAGES, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        made(folder, source, interface, **options)
    return str(caught.value)


def test_a_users_network_is_made_with_its_options_beside_the_recipe_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert isinstance(made(tmp_path, outputs=3), torch.nn.Sequential)
    model = MODEL.validate_python({"file": "models.py:make"})
    assert model_files(model, tmp_path) == {"models.py:make": tmp_path / "models.py"}
    with pytest.raises(RecipeError, match=r"model.file 'models.py:make': there is no file .*; paths are relative to"):
        model_files(model, elsewhere)


def test_a_users_files_called_like_ours_do_no_harm(tmp_path: Path) -> None:
    for name in ("pipeline.py", "engines.py", "data.py", "torch.py"):
        (tmp_path / name).write_text("raise RuntimeError('imported by mistake')\n")
    import_module("pipeline.networks")
    paths, modules = list(sys.path), set(sys.modules)
    made(tmp_path, "from pipeline.networks import PlainNetwork\n" + LINEAR)
    assert sys.path == paths
    assert set(sys.modules) - modules <= {"_edgestill_user_models"}


def test_an_edit_is_seen_at_once_and_nothing_is_written_beside_the_file(tmp_path: Path) -> None:
    for marker in ("111", "222"):
        network = made(tmp_path, LINEAR + f"\n\nMARKER = {marker}\ntorch.nn.Sequential.marker = MARKER\n")
        assert network.marker == int(marker)
    del torch.nn.Sequential.marker  # type: ignore[attr-defined]
    assert [file.name for file in tmp_path.iterdir()] == ["models.py"]


def test_a_dataclass_in_a_users_file_works(tmp_path: Path) -> None:
    made(
        tmp_path,
        "from __future__ import annotations\nimport dataclasses\n\n"
        "@dataclasses.dataclass\nclass Settings:\n    width: int = 3\n\n" + LINEAR,
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def make():\n    x = 1\n    raise KeyError('x')\n", "raised KeyError: 'x' (models.py line 3)"),
        ("x = 1\n1 / 0\n", "raised ZeroDivisionError: division by zero (models.py line 2)"),
        ("def make():\n    return helper()\n\n\ndef helper():\n    assert False, 'no'\n", "(models.py line 6)"),
        ("x = 1\ndef make(:\n    pass\n", "(models.py line 2)"),
        ("def make():\n    raise SystemExit(0)\n", "raised SystemExit: 0 (models.py line 2)"),
        (
            "import no_such_helper\n",
            "raised ModuleNotFoundError: No module named 'no_such_helper' (models.py line 1); "
            "this file is loaded alone: install what it imports, or put it in here",
        ),
        (
            "from . import sibling\n",
            "raised ImportError: attempted relative import with no known parent package (models.py line 1); "
            "this file is loaded alone: install what it imports, or put it in here",
        ),
    ],
)
def test_what_a_users_file_raises_is_said_with_its_line(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "sibling.py").touch()
    found = refused(tmp_path, source)
    assert found.startswith("model: models.py:make raised ")
    assert found.endswith(message)


def test_an_option_that_the_function_does_not_take_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, LINEAR, width=3) == (
        "model: models.py:make raised TypeError: make() got an unexpected keyword argument 'width' (models.py)"
    )


def test_a_function_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    assert refused(tmp_path, "def build():\n    pass\n\n\ndef _hidden():\n    pass\n") == (
        f"model: {tmp_path / 'models.py'} has no function 'make'; it has build"
    )


NETWORK = "import torch\n\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        {}\n\n\nmake = Net\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def make():\n    return 3\n", "model: models.py:make returned int; return a torch.nn.Module"),
        (
            "import torch\nmake = lambda: torch.nn.ReLU\n",
            "model: models.py:make returned type; return a torch.nn.Module",
        ),
        (
            LINEAR.replace("outputs=3", "outputs=5"),
            "model models.py:make: gives logits of (2, 5) for 2 images; the data has 3 classes, so it must be (2, 3)",
        ),
        (
            NETWORK.format("return x"),
            "model models.py:make: gives logits of (2, 1, 8, 8) for 2 images; "
            "the data has 3 classes, so it must be (2, 3)",
        ),
        (
            NETWORK.format("return x, x"),
            "model models.py:make: gives 2 outputs; the task wants 1: logits (for 2 images)",
        ),
        (
            NETWORK.format("return {'out': x}"),
            "model models.py:make: gives outputs out; the task wants logits (for 2 images)",
        ),
        (
            NETWORK.format("assert x.shape[1] == 3, 'RGB only'"),
            "model models.py:make: does not take 2 images of shape (1, 8, 8): "
            "AssertionError: RGB only (models.py line 6)",
        ),
        (
            LINEAR.replace("64", "65"),
            "model models.py:make: does not take 2 images of shape (1, 8, 8): "
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x64 and 65x3) (models.py)",
        ),
        (
            NETWORK.format("return x.reshape(2, -1)[:, :3]"),
            "model models.py:make: gives logits of (2, 3) for 3 images; the data has 3 classes, so it must be (3, 3)",
        ),
    ],
)
def test_a_network_that_does_not_fit_the_task_is_refused(tmp_path: Path, source: str, message: str) -> None:
    assert refused(tmp_path, source) == message


SEQUENCE = (
    "import torch\n\n\nclass Net(torch.nn.Module):\n    def forward(self, rows, mask):\n        {}\n\n\nmake = Net\n"
)


def test_a_network_is_given_its_inputs_in_order_and_a_mask_of_ones(tmp_path: Path) -> None:
    body = "assert rows.shape[1:] == (5, 4) and (mask == 1).all() and mask.dtype == torch.int64; return rows[:, 0, :3]"
    made(tmp_path, SEQUENCE.format(body), ROWS)


def test_a_network_that_does_not_take_the_inputs_is_told_all_of_them(tmp_path: Path) -> None:
    assert refused(tmp_path, NETWORK.format("return x"), ROWS) == (
        "model models.py:make: does not take 2 samples of rows (5, 4) float32, mask (5,) int64: "
        "TypeError: Net.forward() takes 2 positional arguments but 3 were given (models.py)"
    )


@pytest.mark.parametrize(
    "returned", ["x[:, 0, :7, :4], x.sum((1, 2, 3))", "{'scores': x[:, 0], 'boxes': x[:, 0, :7, :4]}"]
)
def test_several_outputs_come_in_order_or_by_name_and_one_may_have_any_shape(tmp_path: Path, returned: str) -> None:
    made(tmp_path, NETWORK.format(f"return {returned}"), BOXES)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("x[:, 0], x", "gives boxes of (2, 8, 8) for 2 images; the data has 3 classes, so it must be (2, 7, 4)"),
        ("x[:, 0, :7, :4], x.sum()", "gives scores of () for 2 images; its first axis must be the batch, 2"),
        ("x[:, 0, :7, :4], x[:2]", "gives scores of (2, 1, 8, 8) for 3 images; its first axis must be the batch, 3"),
        ("x[:, 0, :7, :4], 3", "gives tuple; give a tensor, or one for each of boxes, scores (for 2 images)"),
    ],
)
def test_of_several_outputs_the_wrong_one_is_named(tmp_path: Path, returned: str, message: str) -> None:
    assert refused(tmp_path, NETWORK.format(f"return {returned}"), BOXES) == f"model models.py:make: {message}"


def test_the_trial_leaves_the_network_as_it_was_made(tmp_path: Path) -> None:
    evaluating = LINEAR.replace("outputs))", "outputs)).eval()")
    assert made(tmp_path).training
    assert not made(tmp_path, evaluating).training
