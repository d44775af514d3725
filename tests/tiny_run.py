"""A recipe that runs in seconds, and the command as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

# Enough epochs for a signal to arrive in the middle of them.
TINY = """
schema_version = 1
name = "tiny"
task = "classification"

[data]
npz = "images.npz"
split = { train = 0.4, validation = 0.2, calibration = 0.2, test = 0.2 }

[teacher]
model = { name = "residual", widths = [8, 16] }
epochs = 2
batch_size = 32
optimizer = { name = "adamw", learning_rate = 1e-2 }

[distill]
model = { name = "residual", widths = [4, 8] }
epochs = 40
batch_size = 32
baseline = false
[[distill.losses]]
name = "kd"

[export]

[calibrate]
families = ["cpu"]

[build.targets.cpu]
runtime = "onnxruntime"
precisions = ["fp32", "int8"]

[measure]
batch_sizes = [1]

[gates]
accuracy_ratio_to_fp32 = 0.9
"""


def write_recipe(folder: Path, text: str = TINY) -> Path:
    """The recipe and its data: 300 images of 8x8 whose class is where they are bright."""
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    images = random.normal(0, 0.3, (300, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 3] += 1
    np.savez(folder / "images.npz", images=images, labels=labels)
    recipe = folder / "tiny.toml"
    recipe.write_text(text, encoding="utf-8")
    return recipe


def command(*arguments: str | Path) -> list[str]:
    """The command line of `edgestill`."""
    return [sys.executable, "-m", "pipeline", *map(str, arguments)]


def run_edgestill(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it, in a process of its own."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )
