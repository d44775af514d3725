"""What a step costs: labels alone, teacher live, teacher cached, and a plain PyTorch loop with the same loss.

A teacher of the size of ResNet-50 and a student of 4.9 M parameters on digits enlarged to 64x64, one thread. All are
run in turn in one process, several rounds; the median from the second epoch on is taken, closing included.
Weights are random: they change no time. Memory is of processes of their own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.distillation_gains import context_in
from engines.peak_memory import high_water_mark_bytes
from pipeline.artifact import Artifacts, Splits, Teacher
from pipeline.context import Context
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.distillation.augment import AffinePlan, Augment
from pipeline.distillation.losses.kd import KD
from pipeline.distillation.losses.labels import Labels
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.optimizer import LearningRateSchedule, Optimizer
from pipeline.distillation.signals import NoTeacher, TeacherSignals
from pipeline.distillation.teacher_cache import CacheSettings
from pipeline.distillation.teaching import Teaching
from pipeline.distillation.trainer import fit
from pipeline.distillation.training import Lesson, Training
from pipeline.mistakes import settings_from_toml
from pipeline.models.model import make_model, parameter_count
from pipeline.models.weights import write_weights
from pipeline.process.torch_state import set_up_torch
from pipeline.samples.digits import digit_images
from pipeline.stages.data import Data
from pipeline.stages.teacher import TrainTeacher

Mode = Literal["labels", "live", "cached", "plain live", "plain labels"]
MODES: tuple[Mode, ...] = ("labels", "live", "cached", "plain live", "plain labels")
IMAGES, PIXELS, BATCH, EPOCHS, ROUNDS = 192, 64, 32, 4, 3
TEACHER = {
    "name": "residual",
    "block": "bottleneck",
    "widths": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "stem_stride": 4,
}
STUDENT = {"name": "residual", "widths": [64, 128, 256, 512], "stem_stride": 4}
AUGMENT = Augment(rotate_degrees=15, translate=0.12, zoom=0.15)
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 5e-4
LOSS = KD(temperature=4.0, alpha=0.3)
TRAINING = Training(
    epochs=EPOCHS,
    batch_size=BATCH,
    optimizer=Optimizer(
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        schedule=LearningRateSchedule(name="constant", warm_up=0.0),
    ),
    augment=AUGMENT,
    views=2,
)


def speed() -> Iterator[str]:
    """Markdown."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        inputs = _inputs(folder)
        seconds: dict[Mode, list[float]] = {mode: [] for mode in MODES}
        _epochs("cached", inputs, folder)  # fills the cache, warms the rest
        for _ in range(ROUNDS):
            for mode in MODES:
                seconds[mode].append(statistics.median(_epochs(mode, inputs, folder)))
        yield from _table(seconds, inputs[Splits], folder)
        yield "\n| process | peak memory, MB |\n|---|---|"
        for mode in MODES:
            yield f"| {mode} | {_peak_memory_bytes(mode, folder) / 1e6:.0f} |"


def _inputs(folder: Path) -> Artifacts:
    """The data, and a teacher that was never trained."""
    images, labels = digit_images()
    order = np.random.default_rng(0).permutation(len(images))[: IMAGES + 96]
    large = images[order].repeat(PIXELS // 8, axis=1).repeat(PIXELS // 8, axis=2)
    splits = ["train"] * IMAGES + ["validation"] * 32 + ["calibration"] * 32 + ["test"] * 32
    np.savez(folder / "large.npz", images=large, labels=labels[order], splits=splits)
    data, teacher = folder / "data", folder / "teacher"
    for made in (data, teacher):
        made.mkdir()
    settings = {"npz": "large.npz", "preprocess": {"scale": 0.0625, "mean": [0.0], "std": [1.0]}}
    settings_from_toml(Data, settings).run(Artifacts(), data, context_in(folder, 0, "classification"))
    _write_teacher(Splits(data), teacher, context_in(folder, 0, "classification"))
    return Artifacts([Splits(data), Teacher(teacher)])


def _write_teacher(splits: Splits, target: Path, context: Context) -> None:
    from pipeline.models.weights import network_document

    interface = open_dataset(splits, context).interface
    model = settings_from_toml(TrainTeacher, {"model": TEACHER}).model
    set_up_torch(context)
    network = make_model(model, interface, context.recipe_folder)
    write_weights(target / "teacher.safetensors", network.state_dict())
    document = network_document(network, model, interface, context.recipe_folder)
    (target / "model.json").write_text(json.dumps(document), encoding="utf-8")


def _epochs(mode: Mode, inputs: Artifacts, folder: Path) -> list[float]:
    """Seconds of each epoch but the first."""
    with tempfile.TemporaryDirectory() as scratch:
        context = context_in(Path(scratch), 0, "classification", folder, folder / "cache")
        set_up_torch(context)
        dataset = open_dataset(inputs[Splits], context)
        stamps: list[float] = []

        def on_epoch(_: object) -> bool:
            stamps.append(time.perf_counter())
            return True

        if mode.startswith("plain"):
            _plain_loop(dataset, inputs, context, mode == "plain live", on_epoch)
        else:
            _trained(mode, dataset, inputs, context, on_epoch)
        return [after - before for before, after in pairwise(stamps)]


def _trained(
    mode: Mode, dataset: Dataset, inputs: Artifacts, context: Context, on_epoch: Callable[[object], bool]
) -> None:
    terms: tuple[DistillationLoss, ...] = (Labels(),) if mode == "labels" else (LOSS,)
    cache = CacheSettings(mode="on" if mode == "cached" else "off")
    network = _student(dataset, context)
    # One epoch more: the trainer does not ask after its last.
    training = Training(**{**vars(TRAINING), "epochs": EPOCHS + 1})
    with Teaching(terms, "average", cache, dataset, training, inputs, context) as teaching:
        signals: TeacherSignals = NoTeacher() if mode == "labels" else teaching.signals(1)
        fit(network, dataset, Lesson(terms, signals), training, context, "student", on_epoch)


def _plain_loop(
    dataset: Dataset, inputs: Artifacts, context: Context, taught: bool, on_epoch: Callable[[object], bool]
) -> None:
    """As one writes it by hand: all in memory, no checkpoints, no checks; validated after each epoch."""
    import torch
    from torch.nn import functional

    from pipeline.models.weights import teacher_networks

    student = _student(dataset, context)
    (teacher,) = teacher_networks(inputs[Teacher], context)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    images, labels = _tensors(dataset, "train")
    validation_images, validation_labels = _tensors(dataset, "validation")
    for epoch in range(EPOCHS + 1):
        student.train()
        theta = torch.from_numpy(AffinePlan(AUGMENT, 0, epoch, len(images))._theta)
        for rows in torch.split(torch.randperm(len(images)), BATCH):
            grid = functional.affine_grid(theta[rows], [len(rows), *images.shape[1:]], align_corners=False)
            batch = functional.grid_sample(images[rows], grid, padding_mode="border", align_corners=False)
            logits = student(batch)
            loss = functional.cross_entropy(logits, labels[rows])
            if taught:
                with torch.inference_mode():
                    answers = teacher(batch)
                soft = functional.kl_div(
                    functional.log_softmax(logits / LOSS.temperature, 1),
                    functional.softmax(answers / LOSS.temperature, 1),
                    reduction="batchmean",
                )
                loss = LOSS.alpha * loss + (1 - LOSS.alpha) * LOSS.temperature**2 * soft
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        student.eval()
        with torch.inference_mode():
            float((student(validation_images).argmax(1) == validation_labels).float().mean())
        on_epoch(epoch)


def _tensors(dataset: Dataset, split: Literal["train", "validation"]) -> tuple[Any, Any]:
    import torch

    indices = dataset.indices(split)
    (images,) = dataset.inputs(indices).values()
    return torch.from_numpy(images), torch.from_numpy(dataset.labels(indices))


def _student(dataset: Dataset, context: Context) -> Any:
    model = settings_from_toml(TrainTeacher, {"model": STUDENT}).model
    return make_model(model, dataset.interface, context.recipe_folder)


def _table(seconds: Mapping[Mode, list[float]], splits: Splits, folder: Path) -> Iterator[str]:
    dataset = open_dataset(splits, context_in(folder, 0, "classification"))
    student = parameter_count(_student(dataset, context_in(folder, 0, "classification")))
    yield f"student {student:,} parameters, {IMAGES} images of {PIXELS}x{PIXELS}, batch {BATCH}, 1 thread\n"
    yield "| an epoch | s, median (least to most) | images/s | over labels | speed over the plain live loop |"
    yield "|---|---|---|---|---|"
    for mode, found in seconds.items():
        middle = statistics.median(found)
        yield (
            f"| {mode} | {middle:.2f} ({min(found):.2f} to {max(found):.2f}) | {IMAGES / middle:.0f} | "
            f"{_ratio(found, seconds['labels']):.2f} | {1 / _ratio(found, seconds['plain live']):.2f} |"
        )


def _ratio(found: list[float], other: list[float]) -> float:
    """Median of the rounds' own ratios: what slows the machine slows both."""
    return statistics.median(a / b for a, b in zip(found, other, strict=True))


def _peak_memory_bytes(mode: Mode, folder: Path) -> int:
    """Of a process that trains so; the cache was written before."""
    command = [sys.executable, "-m", "benchmarks.distillation_speed", mode, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return int(done.stdout)


if __name__ == "__main__":
    where = Path(sys.argv[2])
    asked = next(mode for mode in MODES if mode == sys.argv[1])
    _epochs(asked, Artifacts([Splits(where / "data"), Teacher(where / "teacher")]), where)
    print(high_water_mark_bytes())
