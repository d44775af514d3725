"""Tasks without a built-in recipe, from data to report: several labels, quantities, and a user's own of two outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_run import TINY, run_edgestill, write_recipe

LEARNS = TINY.replace("epochs = 2\n", "epochs = 25\n").replace("batch_size = 32", "batch_size = 16")

TASK = """\
from pipeline.tasks.classification import OneOfSeveral


class Two(OneOfSeveral):
    name = "two"
    outputs = ("logits", "boxes")

    def output_shapes(self, inputs, classes):
        return {"logits": (classes,), "boxes": (4,)}
"""

NETWORK = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU())
        self.logits, self.boxes = nn.Linear(width * 36, 3), nn.Linear(width * 36, 4)

    def forward(self, images):
        hidden = self.body(images).flatten(1)
        return {"boxes": self.boxes(hidden), "logits": self.logits(hidden)}


def make(width=8):
    return Net(width)
"""


def reported(folder: Path, text: str) -> dict[str, object]:
    """The report of a run of this recipe, whose engines must have passed its gates."""
    recipe = folder / "task.toml"
    recipe.write_text(text, encoding="utf-8")
    done = run_edgestill("run", recipe, "-w", folder / "ws", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, object] = json.loads(done.stdout)["report"]
    return report


@pytest.mark.parametrize(
    ("task", "loss", "metric"),
    [
        ("multi-label", 'name = "kd"', "F1"),
        ("regression", 'name = "mimic"\n[[distill.losses]]\nname = "labels"', "variance explained"),
    ],
)
def test_a_task_with_labels_of_its_own_goes_the_whole_way(tmp_path: Path, task: str, loss: str, metric: str) -> None:
    write_recipe(tmp_path)
    data = dict(np.load(tmp_path / "images.npz"))
    labels = data["labels"]
    own = np.eye(3, dtype=int)[labels] if task == "multi-label" else np.stack([labels, 2.0 - labels], axis=1)
    np.savez(tmp_path / "own.npz", images=data["images"], labels=own)
    text = LEARNS.replace('"classification"', f'"{task}"').replace("images.npz", "own.npz")
    report = reported(tmp_path, text.replace('name = "kd"', loss))
    assert (report["task"], report["metric"], report["interval"]) == (task, metric, "bootstrap over samples")


def test_a_users_task_of_two_outputs_goes_the_whole_way(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    (tmp_path / "tasks.py").write_text(TASK)
    (tmp_path / "nets.py").write_text(NETWORK)
    text = LEARNS.replace('"classification"', '"tasks.py:Two"')
    for name in ('{ name = "residual", widths = [8, 16] }', '{ name = "residual", widths = [4, 8] }'):
        text = text.replace(name, '{ file = "nets.py:make" }')
    terms = 'name = "kd"\n[[distill.losses]]\nname = "mimic"\noutputs = ["boxes"]'
    report = reported(tmp_path, text.replace('name = "kd"', terms))
    assert report["task"] == "two"
    parity = json.loads((tmp_path / "ws" / "03-export" / "parity.json").read_text())
    assert all(f'"{name}"' in json.dumps(parity) for name in ("logits", "boxes"))
    with np.load(tmp_path / "ws" / "06-measure" / "predictions.npz") as predictions:
        assert {"cpu.int8.logits", "cpu.int8.boxes"} <= set(predictions.files)
