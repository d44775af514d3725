"""Tasks without a built-in recipe, from data to report: several labels, quantities, and a user's own of two outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_training import save_npz
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


def reported(folder: Path, text: str) -> dict[str, Any]:
    """The report of a run of this recipe, whose engines must have passed its gates."""
    recipe = folder / "task.toml"
    recipe.write_text(text, encoding="utf-8")
    done = run_edgestill("run", recipe, "-w", folder / "ws", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)["report"]
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


TOKENS = """\
schema_version = 1
name = "tokens"
task = "token-classification"

[data]
npz = "tokens.npz"
inputs = { rows = ["length", "features"], mask = ["length"] }
split = { train = 0.4, validation = 0.2, calibration = 0.2, test = 0.2 }

[teacher]
model = { name = "transformer", width = 32, depth = 1, heads = 2, longest = 24 }
epochs = 6
batch_size = 8
optimizer = { name = "adamw", learning_rate = 5e-3 }

[distill]
model = { name = "transformer", width = 16, depth = 1, heads = 1, longest = 24 }
epochs = 10
batch_size = 8
baseline = false
class_weights = "balanced"
optimizer = { name = "adamw", learning_rate = 1e-2 }
[[distill.losses]]
name = "kd"
temperature = 2.0

[export]
dynamic = ["batch", "length"]

[calibrate]
families = ["cpu", "tensorrt-rtx"]

[build.targets.cpu]
runtime = "onnxruntime"
precisions = ["fp32", "int8"]

[build.targets.rtx]
runtime = "tensorrt-rtx"
precisions = ["int8"]
optional = true
axes = { length = { min = 4, opt = 12, max = 24 } }

[measure]
batch_sizes = [1]

[gates]
accuracy = 0.8
accuracy_ratio_to_fp32 = 0.9
"""


def tokens(samples: int = 160, length: int = 12) -> dict[str, NDArray[Any]]:
    """Sequences of 4 to 12 tokens of three kinds: some tokens have no label, and a few samples have none at all."""
    random = np.random.default_rng(0)
    mask = np.arange(length) < random.integers(4, length + 1, (samples, 1))
    kinds = random.integers(0, 3, (samples, length))
    rows = random.normal(0, 0.4, (samples, length, 6)) + np.repeat(np.eye(3), 2, axis=1)[kinds]
    labels = np.where(mask & (random.random(mask.shape) < 0.9), kinds, -1)
    labels[:24] = -1  # with batches of 8, some batch may have no label at all
    return {"rows": (rows * mask[..., None]).astype(np.float32), "mask": mask.astype(np.float32), "labels": labels}


def test_a_class_for_each_token_goes_the_whole_way_with_padding_and_missing_labels(tmp_path: Path) -> None:
    data = tokens()
    save_npz(tmp_path / "tokens.npz", data)
    report = reported(tmp_path, TOKENS)
    assert (report["task"], report["metric"], report["sample"]) == (
        "token-classification",
        "token accuracy",
        "sequence",
    )
    with np.load(tmp_path / "ws" / "06-measure" / "predictions.npz") as predictions:
        labels, indices = predictions["labels"], predictions["indices"]
        right = (predictions["cpu.int8.logits"].argmax(2) == labels)[labels != -1]
    np.testing.assert_array_equal(labels, data["labels"][indices])
    states = {(each["target"], each["precision"]): each for each in report["engines"]}
    assert states["cpu", "int8"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert states["cpu", "int8"]["accuracy"]["n"] == len(labels)


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
