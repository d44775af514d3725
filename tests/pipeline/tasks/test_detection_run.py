"""A user's own detector with a metric that is no sum over samples, from its data to a report with INT8."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_task import CELLS, GRID, Detection
from numpy.typing import NDArray
from tiny_run import run_edgestill

from pipeline.errors import DataRejected
from pipeline.tasks.intervals import bootstrap

TESTS = Path(__file__).parents[2]
TASK = Detection()
CLASSES = 3
RECIPE = """\
schema_version = 1
name = "detection"
task = "tasks.py:Detection"

[data]
factory = "data.py:make_dataset"
preprocess = { scale = 0.00392157, mean = [0.25], std = [0.2] }

[teacher]
model = { file = "models.py:make_teacher" }
epochs = 10
batch_size = 16
optimizer = { name = "adamw", learning_rate = 1e-2 }

[distill]
model = { file = "models.py:make_student" }
epochs = 10
batch_size = 16
class_weights = "balanced"
baseline = false
optimizer = { name = "adamw", learning_rate = 2e-2 }

[[distill.losses]]
name = "labels"

[[distill.losses]]
name = "kd"
temperature = 2.0
alpha = 0.0

[[distill.losses]]
name = "mimic"
outputs = ["boxes"]

[[distill.losses]]
name = "hint"
pairs = [{ student = "body", teacher = "body" }]
weight = 0.1

[export]

[calibrate]
method = "minmax"

[build.targets.cpu]
runtime = "onnxruntime"
precisions = ["fp32", "int8"]

[measure]
batch_sizes = [1]

[gates]
accuracy = 0.3
accuracy_ratio_to_fp32 = 0.8
"""


def test_a_users_detector_goes_the_whole_way(tmp_path: Path) -> None:
    for name, file in (("task", "tasks.py"), ("networks", "models.py"), ("data", "data.py")):
        shutil.copy(TESTS / f"detection_{name}.py", tmp_path / file)
    (tmp_path / "detection.toml").write_text(RECIPE)
    done = run_edgestill("run", tmp_path / "detection.toml", "-w", tmp_path / "ws", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)["report"]
    said = (report["task"], report["metric"], report["interval"])
    assert said == ("detection", "average precision at IoU 0.5", "bootstrap over samples")
    accuracy = {(each["target"], each["precision"]): each["accuracy"] for each in report["engines"]}
    with np.load(tmp_path / "ws" / "06-measure" / "predictions.npz") as predictions:
        outputs = {name: predictions[f"cpu.int8.{name}"] for name in TASK.outputs}
        own = averaged_precision(outputs, predictions["labels"], np.arange(len(predictions["labels"])))
    found = accuracy["cpu", "int8"]
    assert found["value"] == pytest.approx(own)
    assert found["low"] < found["value"] < found["high"]


def case(samples: int = 40) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Outputs that are often near the boxes, and up to four boxes a sample, each in a cell of its own."""
    random = np.random.default_rng(1)
    labels = np.full((samples, 4, 5), [-1, 0, 0, 0, 0], np.float32)
    scores = random.normal(0, 1, (samples, CELLS, 1 + CLASSES)).astype(np.float32)
    boxes = random.uniform(0.1, 0.9, (samples, CELLS, 4)).astype(np.float32)
    for sample in range(samples):
        for place, cell in enumerate(random.choice(CELLS, random.integers(1, 5), replace=False)):
            within, size = random.uniform(0.1, 0.9, 2), random.uniform(0.2, 0.4, 2)
            kind = random.integers(0, CLASSES)
            labels[sample, place] = kind, *((np.array([cell % GRID, cell // GRID]) + within) / GRID), *size
            scores[sample, cell, 1 + kind] += 2
            boxes[sample, cell] = *(within + random.normal(0, 0.2, 2)), *(size * random.uniform(0.7, 1.4, 2))
    return {"scores": scores, "boxes": boxes}, labels


def corners(box: NDArray[Any]) -> tuple[float, float, float, float]:
    x, y, width, height = map(float, box)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(one: NDArray[Any], two: NDArray[Any]) -> float:
    left, top, right, bottom = corners(one)
    left_2, top_2, right_2, bottom_2 = corners(two)
    inner = max(0.0, min(right, right_2) - max(left, left_2)) * max(0.0, min(bottom, bottom_2) - max(top, top_2))
    return inner / ((right - left) * (bottom - top) + (right_2 - left_2) * (bottom_2 - top_2) - inner)


def averaged_precision(outputs: dict[str, NDArray[Any]], labels: NDArray[Any], chosen: NDArray[np.int64]) -> float:
    """By the definition: over each threshold, precision and recall of what is surer; chosen samples may repeat."""
    precisions = []
    for kind in range(outputs["scores"].shape[2] - 1):
        detections, wanted = [], 0
        for sample in chosen.tolist():
            truths = [box[1:] for box in labels[sample] if box[0] == kind]
            wanted += len(truths)
            detections += matched(outputs["scores"][sample], outputs["boxes"][sample], kind, truths)
        if wanted:
            precisions.append(area(detections, wanted))
    return float(np.mean(precisions))


def matched(
    scores: NDArray[Any], boxes: NDArray[Any], kind: int, truths: list[NDArray[Any]]
) -> list[tuple[float, bool]]:
    """(score, right) of each detection of a class in one sample."""
    exponents = np.exp(scores.astype(np.float64))
    shares = exponents / exponents.sum(axis=1, keepdims=True)
    cells = [cell for cell in range(CELLS) if shares[cell, 1:].argmax() == kind]
    left, found = list(range(len(truths))), []
    for cell in sorted(cells, key=lambda cell: -shares[cell, 1 + kind]):
        x, y, width, height = boxes[cell]
        box = np.array([(x + cell % GRID) / GRID, (y + cell // GRID) / GRID, width, height])
        overlaps = {each: overlap(box, truths[each]) for each in left}
        best = max(overlaps, key=lambda each: overlaps[each], default=None)
        right = best is not None and overlaps[best] >= 0.5
        if right and best is not None:
            left.remove(best)
        found.append((float(shares[cell, 1 + kind]), right))
    return found


def area(detections: list[tuple[float, bool]], wanted: int) -> float:
    points = []
    for threshold in sorted({score for score, _ in detections}):
        surer = [right for score, right in detections if score >= threshold]
        points.append((sum(surer) / wanted, sum(surer) / len(surer)))
    recalls = sorted({0.0, *(recall for recall, _ in points)})
    return sum(
        (high - low) * max(precision for recall, precision in points if recall >= high)
        for low, high in pairwise(recalls)
    )


def test_average_precision_is_what_its_definition_says() -> None:
    outputs, labels = case()
    found = TASK.score(outputs, labels)
    assert found == pytest.approx(averaged_precision(outputs, labels, np.arange(len(labels))))
    assert 0.2 < found < 0.9


def test_a_sample_that_is_counted_twice_is_as_good_as_one_that_is_there_twice() -> None:
    outputs, labels = case()
    statistics = TASK.statistics(outputs, labels)
    drawn = np.random.default_rng(2).integers(0, len(labels), (3, len(labels)))
    counts = np.stack([np.bincount(each, minlength=len(labels)) for each in drawn])
    found = TASK.metric_over(statistics, counts)
    assert found == pytest.approx([averaged_precision(outputs, labels, each) for each in drawn])


def test_a_metric_that_is_no_sum_has_its_interval() -> None:
    outputs, labels = case()
    statistics = TASK.statistics(outputs, labels)
    found = bootstrap(statistics, TASK.metric_over)
    assert found.value == TASK.score(outputs, labels)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.3


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_outputs_that_are_not_finite_find_nothing(broken: float) -> None:
    outputs, labels = case()
    assert TASK.score({name: np.full_like(each, broken) for name, each in outputs.items()}, labels) == 0


def test_perfect_outputs_are_perfect_and_cost_the_boxes_nothing() -> None:
    _, labels = case()
    wanted = TASK.label_rows(torch.from_numpy(labels)).numpy().reshape(len(labels), CELLS)
    scores = 40 * np.eye(1 + CLASSES, dtype=np.float32)[wanted]
    boxes = np.full((len(labels), CELLS, 4), 0.5, np.float32)
    for sample, row in enumerate(labels):
        for kind, x, y, width, height in row[row[:, 0] >= 0]:
            cell = int(x * GRID) + GRID * int(y * GRID)
            boxes[sample, cell] = x * GRID % 1, y * GRID % 1, width, height
            assert wanted[sample, cell] == 1 + kind
    outputs = {"scores": scores, "boxes": boxes}
    assert TASK.score(outputs, labels) == 1
    tensors = {name: torch.from_numpy(each).double() for name, each in outputs.items()}
    assert TASK.supervised_loss(tensors, torch.from_numpy(labels).double()).item() == pytest.approx(0, abs=1e-5)


def test_two_boxes_of_one_cell_are_rejected() -> None:
    labels = np.array([[[0, 0.1, 0.1, 0.2, 0.2], [1, 0.12, 0.1, 0.2, 0.2]]])
    with pytest.raises(DataRejected, match="w: two boxes of sample 0 have their centre in one cell of the grid"):
        TASK.checked_labels(labels, None, 1, "w")
