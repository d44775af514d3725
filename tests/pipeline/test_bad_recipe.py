"""Mistakes in a recipe or in a user's own model, as a user meets them: one message, exit 2, no traceback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import invoke, recipe_in

from pipeline.networks import PlainNetwork

BY_NAME = 'name = "plain", widths = [4, 8]'
BY_FILE = 'file = "models.py:make"'


def refused(*arguments: str | Path, code: int = 2) -> str:
    result = invoke(*arguments, "--quiet")
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert result.stderr.startswith("edgestill: ")
    return result.stderr.removeprefix("edgestill: ").rstrip("\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "seed = ", "is not TOML: Invalid value (at line 4, column 8)"),
        ("alpha = 0.3", "alhpa = 0.3", "[distill] losses[0]: 'alhpa' is no key; did you mean 'alpha'?"),
        ("epochs = 6", 'epochs = "2"', "[teacher] epochs must be a whole number, found '2'"),
        ("temperature = 4.0", "temperature = 0", "[distill] losses[0]: temperature must be greater than 0, found 0"),
        (
            '["fp32", "int8"]',
            '["fp16"]',
            "[build] targets.cpu: onnxruntime on a CPU computes FP16 in FP32 between casts, which is slower than FP32; "
            "take 'fp16' out of precisions",
        ),
        (
            BY_NAME,
            BY_FILE,
            "[teacher] model.file 'models.py:make': there is no file {folder}/models.py; "
            "paths are relative to the recipe",
        ),
    ],
)
def test_a_mistake_in_a_recipe_ends_before_anything_runs(tmp_path: Path, old: str, new: str, message: str) -> None:
    recipe = recipe_in(tmp_path, (old, new))
    found = refused("run", recipe, "-w", tmp_path / "ws")
    assert found == f"{recipe}: " + message.replace("{folder}", str(tmp_path))
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("command", ["run", "status", "report"])
def test_every_command_that_reads_a_recipe_says_the_same(tmp_path: Path, command: str) -> None:
    recipe = recipe_in(tmp_path, ("seed = 0", "sead = 0"))
    assert refused_by(command, recipe).startswith(f"edgestill: {recipe}: key 'sead' is unknown; did you mean 'seed'?")


def refused_by(command: str, recipe: Path) -> str:
    result = invoke(command, recipe)
    assert result.exit_code == 2
    return result.stderr


def test_a_missing_stage_is_a_mistake_of_the_recipe(tmp_path: Path) -> None:
    recipe = recipe_in(
        tmp_path, ("[export]\nopset = 18\nparity = { atol = 1e-4, rtol = 1e-4, batches = [1, 8] }\n", "")
    )
    assert refused("run", recipe, "-w", tmp_path / "ws").splitlines() == [
        f"{recipe}: [{stage}] needs Graph, which [export] makes: add a [export] section"
        for stage in ("calibrate", "build", "measure", "gates")
    ]


def test_a_recipe_that_is_not_there_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    assert refused("run", tmp_path / "my.toml").startswith(f"{tmp_path / 'my.toml'}: cannot be read (")
    assert refused("run", "digts").startswith("there is no built-in recipe 'digts'; did you mean 'digits'? ")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def make():\n    shapes = {}\n    return shapes['head']\n",
            "model: models.py:make raised KeyError: 'head' (models.py line 3)",
        ),
        (
            "import torch\n\ndef make(:\n",
            "model: models.py:make raised SyntaxError: invalid syntax (models.py, line 3)",
        ),
        ("def make():\n    return 'resnet'\n", "model: models.py:make returned str; return a torch.nn.Module"),
        (
            "import torch\n\ndef make():\n    return torch.nn.Flatten()\n",
            "model models.py:make: gives logits of (2, 64) for 2 images; the data has 3 classes, so it must be (2, 3)",
        ),
    ],
)
def test_a_network_of_the_users_that_cannot_be_used_is_a_mistake_of_the_recipe(
    tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "models.py").write_text(source)
    recipe = recipe_in(tmp_path, (BY_NAME, BY_FILE))
    assert refused("run", recipe, "-w", tmp_path / "ws", "--until", "teacher").startswith(message)


def test_a_student_with_other_outputs_than_its_teacher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "import torch\n\n\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))\n"
    )
    recipe = recipe_in(tmp_path, ('name = "residual", widths = [2, 4]', BY_FILE), ("epochs = 6", "epochs = 1"))
    assert refused("run", recipe, "-w", tmp_path / "ws", "--until", "distill") == (
        "model models.py:make: gives logits of (2, 5) for 2 images; the data has 3 classes, so it must be (2, 3)"
    )


def test_weights_of_another_teacher_are_a_mistake_of_the_recipe(tmp_path: Path) -> None:
    torch.save(PlainNetwork(1, [4, 8], 7).state_dict(), tmp_path / "teacher.pt")
    recipe = recipe_in(tmp_path, ("epochs = 6", 'weights = "teacher.pt"'))
    assert refused("run", recipe, "-w", tmp_path / "ws", "--until", "teacher") == (
        f"{tmp_path / 'teacher.pt'}: does not fit the model: head.weight has shape (7, 8), the model (3, 8); "
        "head.bias has shape (7,), the model (3,)"
    )


def test_a_teacher_whose_weights_are_not_finite_is_not_acceptable(tmp_path: Path) -> None:
    state = PlainNetwork(1, [4, 8], 3).state_dict()
    torch.save({**state, "head.bias": torch.full((3,), np.nan)}, tmp_path / "teacher.pt")
    recipe = recipe_in(tmp_path, ("epochs = 6", 'weights = "teacher.pt"'))
    assert refused("run", recipe, "-w", tmp_path / "ws", "--until", "teacher", code=1) == (
        f"{tmp_path / 'teacher.pt'}: tensor head.bias holds NaN or infinite values; export the weights again"
    )


def test_a_training_that_diverges_is_not_acceptable_and_names_its_step(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, ('name = "adamw", learning_rate = 2e-2', 'name = "sgd", learning_rate = 1e30'))
    found = refused("run", recipe, "-w", tmp_path / "ws", "--until", "teacher", code=1)
    assert found.startswith("teacher: the loss is nan at step 2 (labels nan); lower the learning rate (now 1e+30)")
