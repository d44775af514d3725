"""Each task's metric against torchmetrics, and what no task may count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics import R2Score
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex, MultilabelF1Score

from pipeline.distillation.losses.dist import DIST
from pipeline.distillation.losses.dkd import DKD
from pipeline.distillation.losses.kd import KD
from pipeline.distillation.losses.label_smoothing import LabelSmoothing
from pipeline.distillation.losses.labels import Labels
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.standardized_kd import StandardizedKD
from pipeline.distillation.seen import Seen
from pipeline.errors import DataRejected, RecipeError
from pipeline.samples.arrays import ArraySamples
from pipeline.tasks import TASKS, task_named
from pipeline.tasks.intervals import bootstrap, bootstrap_ratio

RANDOM = np.random.default_rng(0)
CLASSES = 4


def case(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Outputs that are often right, and labels, some of them missing where the task allows it."""
    labels: NDArray[Any]
    if name == "regression":
        labels = RANDOM.normal(size=(50, 3)).astype(np.float32)
        return (labels + RANDOM.normal(0, 0.5, labels.shape)).astype(np.float32), labels
    if name == "multi-label":
        labels = RANDOM.integers(0, 2, (50, CLASSES))
        return (labels - 0.5 + RANDOM.normal(0, 0.7, labels.shape)).astype(np.float32), labels
    shape = {"segmentation": (20, 6, 5), "token-classification": (30, 7)}.get(name, (60,))
    labels = RANDOM.integers(0, CLASSES, shape)
    logits = np.eye(CLASSES)[labels] + RANDOM.normal(0, 0.7, (*shape, CLASSES))
    if name == "segmentation":
        labels[RANDOM.random(shape) < 0.1] = 255
        logits = np.moveaxis(logits, -1, 1)
    if name == "token-classification":
        labels[RANDOM.random(shape) < 0.2] = -1
    return logits.astype(np.float32), labels


def by_torchmetrics(name: str, outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    found, wanted = torch.from_numpy(outputs), torch.from_numpy(labels)
    metric: Any
    if name == "regression":
        metric = R2Score()
    elif name == "multi-label":
        metric, found = MultilabelF1Score(CLASSES, average="micro"), found.sigmoid()
    elif name == "segmentation":
        metric = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=255)
    else:
        metric = MulticlassAccuracy(CLASSES, average="micro", ignore_index=-1)
        found, wanted = found.flatten(0, -2), wanted.flatten()
    metric.update(found, wanted)
    return float(metric.compute())


@pytest.mark.parametrize("name", TASKS)
def test_the_metric_is_torchmetrics_own(name: str) -> None:
    task, (outputs, labels) = TASKS[name], case(name)
    score = task.score({task.outputs[0]: outputs}, labels)
    assert score == pytest.approx(by_torchmetrics(name, outputs, labels), abs=1e-5)
    assert 0.3 < score < 1


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_never_right(name: str, broken: float) -> None:
    task, (outputs, labels) = TASKS[name], case(name)
    everything = np.full_like(outputs, broken)
    assert task.score({task.outputs[0]: everything}, labels) <= 0


@pytest.mark.parametrize("name", [name for name in TASKS if name != "regression"])
def test_no_constant_answer_is_better_than_chance(name: str) -> None:
    task, (outputs, labels) = TASKS[name], case(name)
    axis = 1 if outputs.ndim == 2 or name == "segmentation" else 2
    scores = []
    for choice in range(2**CLASSES if name == "multi-label" else CLASSES):
        bits = [choice >> place & 1 for place in range(CLASSES)]
        row = np.asarray(bits if name == "multi-label" else np.arange(CLASSES) == choice, np.float32) - 0.5
        constant = np.broadcast_to(
            row.reshape([-1 if each == axis else 1 for each in range(outputs.ndim)]), outputs.shape
        )
        scores.append(task.score({task.outputs[0]: constant}, labels))
    assert max(scores) == pytest.approx(task.chance(labels, CLASSES), abs=1e-6)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.has_logits])
def test_logits_and_labels_pair_up_row_by_row(name: str) -> None:
    task, (outputs, labels) = TASKS[name], case(name)
    logits = task.logit_rows({task.outputs[0]: torch.from_numpy(outputs).double()})
    rows = task.label_rows(torch.from_numpy(labels))
    assert logits.shape[0] == len(rows)
    loss = torch.nn.functional.cross_entropy(logits, rows, ignore_index=-1)
    own = task.supervised_loss({task.outputs[0]: torch.from_numpy(outputs).double()}, torch.from_numpy(labels))
    torch.testing.assert_close(loss, own)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("multi-label", np.array([[0, 2], [1, 0]]), "w: sample 0 has 2 for class 1; give 1 where the class is present"),
        ("segmentation", np.zeros((2, 4), int), r"w: labels have shape \(2, 4\) and dtype int64; expected integers of"),
        ("segmentation", np.full((2, 1, 1), 255), "w: no pixel has a label"),
        ("token-classification", np.array([[0, -2], [1, 0]]), "w: token 1 of sample 0 has label -2; labels go from 0"),
        ("regression", np.array([0.5, np.nan]), "w: the label of sample 1 is NaN or infinite in float32; mend it"),
        ("regression", np.array([0.5, 0.5]), "w: quantity 0 is the same for every sample; there is nothing to learn"),
    ],
)
def test_labels_that_a_task_cannot_take_are_rejected(name: str, labels: NDArray[Any], message: str) -> None:
    with pytest.raises(DataRejected, match=message):
        TASKS[name].checked_labels(labels, None, 2, "w")


SEQUENCES = {
    "rows": np.zeros((2, 3, 4), np.float32),
    "mask": np.array([[1, 1, 1], [1, 1, 0]], np.float32),
}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1], [1, 0]], r"w: labels have shape \(2, 2\) and 'mask' \(2, 3\); give each token a label, -1 where it"),
        ([[0, 1, 0], [1, 0, 1]], r"w: token 2 of sample 1 is padding \('mask' is 0\) and has label 1; write -1 there"),
    ],
)
def test_labels_of_tokens_that_do_not_fit_their_sequence_are_rejected(labels: list[list[int]], message: str) -> None:
    task = TASKS["token-classification"]
    axes = {"rows": ("length", "features"), "mask": ("length",)}
    with pytest.raises(DataRejected, match=message):
        ArraySamples({**SEQUENCES, "labels": np.array(labels)}, "w", task, axes)
    ArraySamples({**SEQUENCES, "labels": np.array([[0, 1, 0], [1, 0, -1]])}, "w", task, axes)


@pytest.mark.parametrize(("name", "none"), [("token-classification", -1), ("segmentation", 255)])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)])
def test_a_batch_without_any_label_weighs_nothing(name: str, none: int, weights: torch.Tensor | None) -> None:
    task, (outputs, labels) = TASKS[name], case(name)
    logits = torch.from_numpy(outputs).double().requires_grad_()
    loss = task.supervised_loss({"logits": logits}, torch.full(labels.shape, none), weights)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not slope.any()
    # Where there are labels it is torch's own mean.
    own = task.supervised_loss({"logits": logits}, torch.from_numpy(labels), weights)
    rows, wanted = task.logit_rows({"logits": logits}), task.label_rows(torch.from_numpy(labels))
    torch.testing.assert_close(own, torch.nn.functional.cross_entropy(rows, wanted, weights, ignore_index=-1))


@pytest.mark.parametrize("loss", [KD(), DKD(), DIST(), StandardizedKD(), LabelSmoothing(), Labels()])
def test_no_loss_is_nan_for_tokens_that_are_all_padding_or_have_no_label(loss: DistillationLoss) -> None:
    random = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, CLASSES, generator=random, dtype=torch.float64, requires_grad=True)
    seen = Seen(
        student={"logits": student},
        teacher={"logits": torch.randn(2, 3, CLASSES, generator=random, dtype=torch.float64)},
        student_features={},
        teacher_features={},
        labels=torch.full((2, 3), -1),
        rows=torch.arange(2),
        samples=2,
        task=TASKS["token-classification"],
        mask=torch.tensor([[1, 1, 0], [1, 0, 0]]),
        class_weights=torch.ones(CLASSES, dtype=torch.float64),
    )
    value = loss.value(seen, None)
    (slope,) = torch.autograd.grad(value, student)
    assert value.item() == 0
    assert not slope.any()


def test_a_task_of_the_users_own_is_made_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from pipeline.tasks.classification import OneOfSeveral\n\n\n"
        "class Mine(OneOfSeveral):\n    name = 'mine'\n\n\nclass Other:\n    pass\n"
    )
    assert task_named("tasks.py:Mine", tmp_path).name == "mine"
    with pytest.raises(RecipeError, match=r"^task: tasks\.py:Other made Other; write a subclass of pipeline\.tasks"):
        task_named("tasks.py:Other", tmp_path)
    with pytest.raises(RecipeError, match="there is no file"):
        task_named("absent.py:Mine", tmp_path)


def test_an_interval_from_resampled_samples_holds_the_value_and_pairs_two_engines() -> None:
    task, (outputs, labels) = TASKS["segmentation"], case("segmentation")
    statistics = task.statistics({"logits": outputs}, labels)
    found = bootstrap(statistics, task.metric_over)
    assert found.low < found.value < found.high
    assert found == bootstrap(statistics, task.metric_over)
    same = bootstrap_ratio(statistics, statistics, task.metric_over)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="the reference's metric is not above 0"):
        bootstrap_ratio(statistics, np.zeros_like(statistics), task.metric_over)
