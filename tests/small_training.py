"""Small data, a context and recipes for the tests of data and training: everything runs in a fraction of a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from pipeline.artifact import Artifacts, Splits
from pipeline.context import Context
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress, QuietProgress
from pipeline.stages.data import Data
from pipeline.tasks import TASKS

IMAGES = 60
CLASSES = 3

RECIPE = """\
schema_version = 1
name = "small"
task = "classification"
seed = 0
threads = 1

[data]
npz = "images.npz"
split = { train = 0.4, validation = 0.2, calibration = 0.2, test = 0.2 }
preprocess = { scale = 1.0, mean = [0.0], std = [1.0] }
augment = { rotate_degrees = 5, translate = 0.1, zoom = 0.1 }

[teacher]
model = { name = "plain", widths = [4, 8] }
epochs = 6
batch_size = 8
optimizer = { name = "adamw", learning_rate = 2e-2, weight_decay = 5e-4 }

[distill]
model = { name = "residual", widths = [2, 4] }
epochs = 3
batch_size = 8
baseline = true
[[distill.losses]]
name = "kd"
temperature = 4.0
alpha = 0.3

[export]
opset = 18
parity = { atol = 1e-4, rtol = 1e-4, batches = [1, 8] }

[calibrate]
method = "entropy"
batch_size = 32
families = ["cpu", "tensorrt-rtx"]

[build.targets.cpu]
runtime = "onnxruntime"
precisions = ["fp32", "int8"]

[build.targets.gpu]
runtime = "tensorrt-rtx"
precisions = ["fp32", "fp16"]
compute_capabilities = []
batch = { min = 1, opt = 8, max = 64 }
optional = true

[measure]
batch_sizes = [1, 8]
preset = "quick"

[gates]
accuracy_ratio_to_fp32 = 0.9
"""


def arrays(count: int = IMAGES, noise: float = 0.3) -> dict[str, NDArray[Any]]:
    """Images of 8x8 whose class is where they are bright."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    images = random.normal(0, noise, (count, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 3] += 1
    return {"images": images, "labels": labels}


def sequences(count: int = 40) -> dict[str, NDArray[Any]]:
    """Two classes of sequences of 3 to 6 steps, padded to 6."""
    random = np.random.default_rng(0)
    lengths, labels = 3 + np.arange(count) % 4, np.arange(count) % 2
    mask = (np.arange(6) < lengths[:, None]).astype(np.float32)
    rows = (random.normal(labels[:, None, None], 1, (count, 6, 5)) * mask[..., None]).astype(np.float32)
    return {"rows": rows, "mask": mask, "tokens": random.integers(0, 90, (count, 6)), "labels": labels}


AXES = {"tokens": ("length",), "rows": ("length", "features"), "mask": ("length",)}
SEQUENCES: dict[str, Any] = {"task": "sequence-classification", "npz": "data.npz", "inputs": AXES}


def scenes(height: int = 8, width: int = 6) -> dict[str, NDArray[Any]]:
    """Images whose label says of each pixel whether it is bright."""
    labels = np.random.default_rng(0).integers(0, 2, (40, height, width))
    return {"images": labels.astype(np.float32), "labels": labels}


def save_npz(path: Path, data: Mapping[str, Any]) -> None:
    """As a user saves it, objects included."""
    np.savez(path, **data)


def recipe_in(folder: Path, *changes: tuple[str, str], data: dict[str, NDArray[Any]] | None = None) -> Path:
    """`RECIPE` with each text replaced, beside its data."""
    text = RECIPE
    for old, new in changes:
        assert text.count(old) >= 1, f"the recipe has no {old!r}"
        text = text.replace(old, new, 1)
    save_npz(folder / "images.npz", data or arrays())
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


def invoke(*arguments: str | Path) -> Result:
    """The command line, in this process."""
    from pipeline.cli import app

    return CliRunner().invoke(app, [*map(str, arguments)])


def context_in(
    folder: Path,
    seed: int = 0,
    recipe_folder: Path | None = None,
    progress: Progress | None = None,
    cancellation: Cancellation | None = None,
    task: str = "classification",
) -> Context:
    """For a stage or a training that keeps its checkpoints in `folder`."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Context(
        command="edgestill run small",
        name="small",
        task=TASKS[task],
        seed=seed,
        threads=1,
        recipe_folder=recipe_folder or folder,
        progress=progress or QuietProgress(),
        cancellation=cancellation or Cancellation(),
        cache=folder / "cache",
        checkpoints=folder / "checkpoints",
        log=folder / "log.txt",
    )


def splits_in(folder: Path, /, seed: int = 0, task: str = "classification", **settings: Any) -> Splits:
    """What the data stage makes; without settings, of `arrays`."""
    if not settings:
        save_npz(folder / "images.npz", arrays())
        settings = {"npz": "images.npz"}
    target = folder / "splits"
    target.mkdir(exist_ok=True)
    Data.model_validate(settings).run(Artifacts(), target, context_in(folder, seed, task=task))
    return Splits(target)


def dataset_in(folder: Path, /, task: str = "classification", **settings: Any) -> Dataset:
    """The samples that `splits_in` split."""
    return open_dataset(splits_in(folder, task=task, **settings), context_in(folder, task=task))
