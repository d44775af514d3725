"""Batches of every task by hand, and the losses on outputs written again: numpy, float64, one decision at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.distillation.losses.dist import DIST
from pipeline.distillation.losses.dkd import DKD
from pipeline.distillation.losses.kd import KD
from pipeline.distillation.losses.label_smoothing import LabelSmoothing
from pipeline.distillation.losses.labels import Labels
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.mimic import Mimic
from pipeline.distillation.losses.standardized_kd import StandardizedKD
from pipeline.distillation.seen import Seen
from pipeline.models.interface import Shape
from pipeline.tasks import TASKS
from pipeline.tasks.classification import ratio
from pipeline.tasks.task import Arrays, Outputs, Statistics, SummedTask

Row = NDArray[np.float64]
PLAIN = TASKS["classification"]
Decision = tuple[Row, Row, int]
"""Student's logits, teacher's logits, label."""

BATCH, CLASSES, LENGTH, SIDE = 4, 5, 3, 2
LOGIT_TASKS = ("classification", "multi-label", "segmentation", "token-classification", "sequence-classification")
# Of one sample, batch first is put in front.
OUTPUTS: Mapping[str, tuple[int, ...]] = {
    "classification": (CLASSES,),
    "sequence-classification": (CLASSES,),
    "multi-label": (CLASSES,),
    "regression": (CLASSES,),
    "token-classification": (LENGTH, CLASSES),
    "segmentation": (CLASSES, SIDE, SIDE),
}
LABELS: Mapping[str, tuple[int, ...]] = {
    "classification": (),
    "sequence-classification": (),
    "multi-label": (CLASSES,),
    "regression": (CLASSES,),
    "token-classification": (LENGTH,),
    "segmentation": (SIDE, SIDE),
}
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.25, 1.5], dtype=torch.float64)


@final
class ClassAndBoxes(SummedTask):
    """A user's task, with boxes beside the logits of classification, which alone its own loss and metric look at."""

    name = "class-and-boxes"
    metric = "accuracy"
    outputs = ("logits", "boxes")
    has_logits = True

    def supervised_loss(
        self, outputs: Outputs, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        return PLAIN.supervised_loss(outputs, labels, weights)

    def logit_rows(self, outputs: Outputs) -> torch.Tensor:
        return PLAIN.logit_rows(outputs)

    def label_rows(self, labels: torch.Tensor) -> torch.Tensor:
        return PLAIN.label_rows(labels)

    def checked_labels(
        self, labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        return PLAIN.checked_labels(labels, names, samples, where)

    def output_shapes(self, inputs: Mapping[str, Shape], classes: int) -> Mapping[str, Shape | None]:
        return {**PLAIN.output_shapes(inputs, classes), "boxes": None}

    def statistics(self, outputs: Arrays, labels: NDArray[Any]) -> Statistics:
        return PLAIN.statistics(outputs, labels)

    def metric_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio(sums[..., 0], sums[..., 1])

    def chance(self, labels: NDArray[Any], classes: int) -> float:
        return PLAIN.chance(labels, classes)


def batch(task: str, seed: int = 0, weighted: bool = False, samples: int = BATCH) -> Seen:
    """Some tokens are padding, some pixels carry no label."""
    random = np.random.default_rng(seed)
    student, teacher = random.normal(0, 3, (2, samples, *OUTPUTS[task]))
    shape, mask = (samples, *LABELS[task]), None
    labels = torch.from_numpy(random.integers(0, 2 if task == "multi-label" else CLASSES, shape))
    if task == "regression":
        labels = torch.from_numpy(random.normal(0, 1, shape))
    if task in ("token-classification", "sequence-classification"):
        mask = torch.ones(samples, LENGTH)
        mask[0, 1:] = 0
    if task == "token-classification" and mask is not None:
        labels[mask == 0] = -1
    if task == "segmentation":
        labels[0, 0] = 255
    name = TASKS[task].outputs[0]
    return Seen(
        student={name: torch.from_numpy(student)},
        teacher={name: torch.from_numpy(teacher)},
        student_features={},
        teacher_features={},
        labels=labels,
        rows=torch.arange(samples),
        samples=samples,
        task=TASKS[task],
        mask=mask,
        class_weights=WEIGHTS if weighted else None,
    )


def student_of(seen: Seen) -> torch.Tensor:
    return seen.student[seen.task.outputs[0]]


def teacher_of(seen: Seen) -> torch.Tensor:
    return seen.teacher[seen.task.outputs[0]]


def with_student(seen: Seen, student: torch.Tensor) -> Seen:
    return replace(seen, student={seen.task.outputs[0]: student})


def with_teacher(seen: Seen, teacher: torch.Tensor) -> Seen:
    return replace(seen, teacher={seen.task.outputs[0]: teacher})


def decisions(seen: Seen) -> list[Decision]:
    """Those with a label, in order."""
    student, teacher, labels = student_of(seen).numpy(), teacher_of(seen).numpy(), seen.labels.numpy()
    found: list[Decision] = []
    for index in np.ndindex(labels.shape):
        label = int(labels[index])
        if seen.task.name == "multi-label":
            rows = [np.array([0.0, each[index]]) for each in (student, teacher)]
        elif seen.task.name == "segmentation":
            sample, row, column = index
            rows = [each[sample, :, row, column] for each in (student, teacher)]
        else:
            rows = [each[index] for each in (student, teacher)]
        if label not in (-1, 255):
            found.append((rows[0], rows[1], label))
    return found


def softmax(row: Row, temperature: float = 1.0) -> Row:
    raised = np.exp((row - row.max()) / temperature)
    share: Row = raised / raised.sum()
    return share


def divergence(wanted: Row, found: Row) -> float:
    return float(sum(p * (np.log(p) - np.log(q)) for p, q in zip(wanted, found, strict=True)))


def supervised(seen: Seen) -> float:
    if seen.task.name == "regression":
        return float(((student_of(seen) - seen.labels) ** 2).mean())
    return smoothed(seen, 0.0)


def smoothed(seen: Seen, smoothing: float) -> float:
    """Cross-entropy against (1 - smoothing) * label + smoothing / classes, class weights as the task has them."""
    weights = np.ones(CLASSES) if seen.class_weights is None else seen.class_weights.numpy()
    total, divisor = 0.0, 0.0
    for position, (student, _, label) in enumerate(decisions(seen)):
        wanted = np.full(len(student), smoothing / len(student))
        wanted[label] += 1 - smoothing
        parts = -wanted * np.log(softmax(student))
        if seen.task.name == "multi-label":
            total, divisor = total + weights[position % CLASSES] * parts.sum(), divisor + 1
        else:
            total, divisor = total + (weights * parts).sum(), divisor + weights[label]
    return float(total / divisor)


def kd(seen: Seen, temperature: float = 4.0, alpha: float = 0.3) -> float:
    soft = np.mean([divergence(softmax(t, temperature), softmax(s, temperature)) for s, t, _ in decisions(seen)])
    return float(alpha * supervised(seen) + (1 - alpha) * temperature**2 * soft)


def standardized_kd(seen: Seen, temperature: float = 2.0, alpha: float = 0.1) -> float:
    def z(row: Row) -> Row:
        scores: Row = (row - row.sum() / len(row)) / np.sqrt(((row - row.sum() / len(row)) ** 2).sum() / len(row))
        return scores

    soft = np.mean([divergence(softmax(z(t), temperature), softmax(z(s), temperature)) for s, t, _ in decisions(seen)])
    return float(alpha * supervised(seen) + (1 - alpha) * temperature**2 * soft)


def dkd(seen: Seen, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0) -> float:
    values = []
    for student, teacher, label in decisions(seen):
        found, wanted = softmax(student, temperature), softmax(teacher, temperature)
        # The rest by its sum: 1 - p[label] cancels to 0 where the target is near certain.
        target = divergence(*(np.array([p[label], np.delete(p, label).sum()]) for p in (wanted, found)))
        others = divergence(*(np.delete(p, label) / np.delete(p, label).sum() for p in (wanted, found)))
        values.append(alpha * target + beta * others)
    return float(temperature**2 * np.mean(values))


def dist(seen: Seen, temperature: float = 1.0, beta: float = 2.0, gamma: float = 2.0) -> float:
    found = np.stack([softmax(student, temperature) for student, _, _ in decisions(seen)])
    wanted = np.stack([softmax(teacher, temperature) for _, teacher, _ in decisions(seen)])

    def relation(a: Row, b: Row) -> float:
        return float(np.mean([1 - np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]))

    return temperature**2 * (beta * relation(found, wanted) + gamma * relation(found.T, wanted.T))


def mimic(seen: Seen) -> float:
    squares = ((student_of(seen) - teacher_of(seen)) ** 2).numpy()
    if seen.task.name == "token-classification" and seen.mask is not None:
        squares = squares[seen.mask.numpy() > 0]
    return float(squares.mean())


CASES: Mapping[str, tuple[DistillationLoss, Callable[[Seen], float], tuple[str, ...]]] = {
    "kd": (KD(), kd, LOGIT_TASKS),
    "dkd": (DKD(), dkd, LOGIT_TASKS),
    "dist": (DIST(), dist, LOGIT_TASKS),
    "standardized_kd": (StandardizedKD(), standardized_kd, tuple(t for t in LOGIT_TASKS if t != "multi-label")),
    "label_smoothing": (LabelSmoothing(), lambda seen: smoothed(seen, 0.1), LOGIT_TASKS),
    "labels": (Labels(), supervised, tuple(OUTPUTS)),
    "mimic": (Mimic(), mimic, tuple(OUTPUTS)),
}
"""Loss, reference at its default settings, tasks it takes."""
PAIRS = tuple((name, task) for name, (_, _, tasks) in CASES.items() for task in tasks)
"""Each loss with each task that it takes."""
