"""What each loss brings: the same student, five seeds, against labels alone; judged on images that chose nothing.

The teacher is trained once a data set, with seed 0. The epoch is chosen on the validation split, the figure is of the
calibration split, which no training sees; the test split is not opened.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.distillation_trials import ALONE, TRIALS, Trial
from pipeline.artifact import Artifacts, Splits, Teacher
from pipeline.context import Context
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.data.splits import SPLITS
from pipeline.distillation.teacher_cache import CacheSettings
from pipeline.distillation.teaching import Teaching
from pipeline.distillation.trainer import fit
from pipeline.distillation.training import Lesson, Training
from pipeline.files import atomic
from pipeline.measuring.predictions import predictions
from pipeline.mistakes import settings_from_toml
from pipeline.models.model import make_model
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.process.torch_state import set_up_torch
from pipeline.recipe import built_in_recipes
from pipeline.stages.data import Data
from pipeline.stages.distill import Distill
from pipeline.stages.teacher import TrainTeacher
from pipeline.tasks import TASKS

SEEDS = range(5)
T_OF_4 = 2.776
"""Student's t at 97.5 % with 4 degrees of freedom: five seeds give a mean and its interval."""


def gains(folder: Path, only: str | None = None) -> Iterator[str]:
    """Markdown; every cell is a file in `folder`, so that a run that was cut goes on where it was."""
    for trial in TRIALS:
        if only is None or only in trial.name:
            yield from _table(trial, _measured(trial, folder / trial.recipe))


def _measured(trial: Trial, folder: Path) -> dict[str, list[float]]:
    """The metric of every seed, by loss."""
    recipe = tomllib.loads(built_in_recipes()[trial.recipe])
    taught = _taught(recipe, folder)
    splits = _with_share(taught[Splits], trial, folder / f"data-{trial.share:g}", recipe["task"])
    inputs = Artifacts([splits, taught[Teacher]])
    found: dict[str, list[float]] = {name: [] for name in trial.losses}
    for seed in SEEDS:  # outermost: a run that is cut has fewer seeds of all losses, not all seeds of few
        cells = {name: folder / f"{trial.share:g}-{name}-{seed}.json" for name in trial.losses}
        if not all(cell.exists() for cell in cells.values()):
            with tempfile.TemporaryDirectory() as scratch:
                # A .npz of a part of the data lies beside its splits.
                context = context_in(Path(scratch), seed, recipe["task"], splits.folder.parent)
                _one_seed({**recipe["distill"], **trial.changes}, trial, cells, inputs, context)
        for name, cell in cells.items():
            found[name].append(float(json.loads(cell.read_text(encoding="utf-8"))["metric"]))
    return found


def _one_seed(
    settings: Mapping[str, Any], trial: Trial, cells: Mapping[str, Path], inputs: Artifacts, context: Context
) -> None:
    """Trains a student with each loss; the teacher answers once for all of them."""
    set_up_torch(context)
    stages = {
        name: settings_from_toml(Distill, {**settings, "losses": losses}) for name, losses in trial.losses.items()
    }
    stage = stages[ALONE]
    dataset, training = open_dataset(inputs[Splits], context), stage.training(inputs[Splits], stage.views)
    every = [term for each in stages.values() for term in each.losses]
    cache = CacheSettings(mode="on", features="float32")
    with Teaching(every, "average", cache, dataset, training, inputs, context) as teaching:
        signals = teaching.signals(len(cells))
        for name, cell in cells.items():
            if not cell.exists():
                metric = _metric(stages[name], Lesson(stages[name].losses, signals), dataset, training, context)
                document = {"losses": trial.losses[name], "seed": context.seed, "metric": metric}
                atomic.write_json(cell, document)
                atomic.remove(context.checkpoints / "student.pt")


def _metric(stage: Distill, lesson: Lesson, dataset: Dataset, training: Training, context: Context) -> float:
    """Of one student on the calibration split, from its best epoch on validation."""
    set_up_torch(context)
    network = make_model(stage.model, dataset.interface, context.recipe_folder)
    network.load_state_dict(fit(network, dataset, lesson, training, context, "student").best)
    indices = dataset.indices("calibration")
    return context.task.score(predictions(network, dataset, indices), dataset.labels(indices))


def _taught(recipe: Mapping[str, Any], folder: Path) -> Artifacts:
    """The data and the teacher of a built-in recipe, made once."""
    data, teacher = folder / "data", folder / "teacher"
    for made in (data, teacher):
        made.mkdir(parents=True, exist_ok=True)
    inputs = Artifacts([Splits(data)])
    context = context_in(folder, 0, recipe["task"])
    if not (data / "splits.json").exists():
        settings_from_toml(Data, recipe["data"]).run(Artifacts(), data, context)
    if not (teacher / "metrics.json").exists():
        settings_from_toml(TrainTeacher, recipe["teacher"]).run(inputs, teacher, context)
    return inputs.and_(Teacher(teacher))


def _with_share(splits: Splits, trial: Trial, folder: Path, task: str) -> Splits:
    """The same splits with a part of the training samples, as many of each class."""
    if trial.share == 1.0:
        return splits
    folder.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(splits, context_in(folder.parent, 0, task))
    labels = np.asarray([record.label for record in dataset.records])
    kept = {split: dataset.indices(split) for split in SPLITS}
    kept["train"] = np.concatenate(
        [of_class[: round(trial.share * len(of_class))] for of_class in _by_class(kept["train"], labels)]
    )
    order = np.concatenate([kept[split] for split in SPLITS])
    images = np.stack([np.asarray(dataset.samples.raw(int(index))) for index in order])
    names = np.repeat(list(SPLITS), [len(kept[split]) for split in SPLITS])
    np.savez(folder / "part.npz", images=images, labels=dataset.labels(order), splits=names)
    settings = {"npz": "part.npz", "preprocess": splits.json("preprocess.json")["preprocess"]}
    augment = splits.json("augment.json")
    part = folder / "splits"
    part.mkdir(exist_ok=True)
    settings_from_toml(Data, {**settings, "augment": augment}).run(Artifacts(), part, context_in(folder, 0, task))
    return Splits(part)


def _by_class(indices: np.ndarray[Any, np.dtype[np.int64]], labels: np.ndarray[Any, Any]) -> Iterator[Any]:
    for label in sorted(set(labels[indices].tolist())):
        yield indices[labels[indices] == label]


def context_in(
    folder: Path, seed: int, task: str, recipe_folder: Path | None = None, cache: Path | None = None
) -> Context:
    """For a stage or a training that keeps its files in `folder`."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Context(
        name="benchmark",
        command="benchmarks/distillation.py",
        task=TASKS[task],
        seed=seed,
        threads=1,
        recipe_folder=recipe_folder or folder,
        progress=QuietProgress(),
        cancellation=Cancellation(),
        cache=cache or folder / "cache",
        checkpoints=folder / "checkpoints",
        log=folder / "log.txt",
    )


def _table(trial: Trial, found: Mapping[str, Sequence[float]]) -> Iterator[str]:
    yield f"\n### {trial.name}\n"
    yield "| loss | mean of 5 seeds | difference to labels alone, points | 95 % interval |\n|---|---|---|---|"
    for name, values in sorted(found.items(), key=lambda item: -statistics.mean(item[1])):
        mean = f"| {name} | {100 * statistics.mean(values):.2f} % |"
        if name == ALONE:
            yield f"{mean} | |"
            continue
        differences = [100 * (value - alone) for value, alone in zip(values, found[ALONE], strict=True)]
        middle = statistics.mean(differences)
        half = T_OF_4 * statistics.stdev(differences) / len(differences) ** 0.5
        yield f"{mean} {middle:+.2f} | {middle - half:+.2f} to {middle + half:+.2f} |"
