"""A teacher that knows nothing of the data is told from one that does, and where it can be, why it knows nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_training import context_in, dataset_in, invoke, save_npz
from tiny_run import TINY, write_recipe
from torch import nn

from pipeline.commands.data_check import data_check
from pipeline.commands.outcome import Outcome
from pipeline.data.dataset import Dataset
from pipeline.measuring.teacher_checks import TeacherScore, teacher_score
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress

Arrays = dict[str, NDArray[Any]]
RIGHT_SCALE = "preprocess = { scale = 0.0039215686, mean = [0], std = [1] }"
RECIPE = f"""\
schema_version = 1
name = "hues"
task = "classification"

[data]
npz = "hues.npz"
{RIGHT_SCALE}

[teacher]
model = {{ file = "models.py:make" }}
weights = "teacher.pt"
"""
MODELS = """\
from torch import nn


def make():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
"""


def hues() -> Arrays:
    """Sixty RGB images, red, green or yellow."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    lit = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.8, 0.1]])[labels][:, None, None]
    images = (lit + random.normal(0, 0.02, (60, 8, 8, 3))).clip(0, 1) * 255
    return {"images": images.astype(np.uint8), "labels": labels, "classes": np.array(["red", "green", "yellow"])}


def knowing() -> nn.Module:
    """A teacher that is right on every hue of 0 to 1, written down and not trained."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    weight = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [1, 1, -1]])
    network[2].load_state_dict({"weight": weight, "bias": torch.tensor([-0.2, 0, -0.8])})
    return network


def in_other_order(data: Arrays) -> Arrays:
    return {**data, "labels": (data["labels"] + 1) % 3}


def in_reverse(data: Arrays) -> Arrays:
    return {**data, "images": data["images"][..., ::-1]}


def shuffled(data: Arrays) -> Arrays:
    return {**data, "labels": np.random.default_rng(3).permutation(data["labels"])}


def checked(folder: Path, data: Arrays, text: str = RECIPE) -> Outcome:
    save_npz(folder / "hues.npz", data)
    (folder / "models.py").write_text(MODELS)
    torch.save(knowing().state_dict(), folder / "teacher.pt")
    (folder / "hues.toml").write_text(text)
    return data_check(str(folder / "hues.toml"), None, QuietProgress(), Cancellation())


def errors(outcome: Outcome) -> list[str]:
    return [each["message"] for each in outcome.document["findings"] if each["severity"] == "error"]


def test_a_check_of_the_data_says_what_a_trained_teacher_makes_of_it(tmp_path: Path) -> None:
    outcome = checked(tmp_path, hues())
    assert outcome.exit_code == 0
    (found,) = outcome.document["teachers"]
    assert (found["name"], found["metric"], found["value"], found["samples"]) == ("teacher", "accuracy", 1.0, 36)
    assert found["chance"] == pytest.approx(1 / 3)
    assert outcome.document["findings"][-1]["message"] == (
        "teacher: accuracy 100.0% [90.4%, 100.0%] on 36 training samples, where one answer for all reaches 33.3%"
    )


@pytest.mark.parametrize(
    ("change", "text", "why"),
    [
        (
            in_other_order,
            RECIPE,
            "in another order: read as green, yellow, red, its outputs are right",
        ),
        (
            in_reverse,
            RECIPE,
            "the channels in reverse order (BGR for RGB, or the other way round) it reaches 100.0%",
        ),
        (dict, RECIPE.replace(RIGHT_SCALE, ""), f"with {RIGHT_SCALE} it reaches 100.0% on 36 of them"),
        (in_reverse, RECIPE.replace(RIGHT_SCALE, ""), f"with {RIGHT_SCALE} and the channels in reverse order"),
        (shuffled, RECIPE, "Its classes may come in another order, or it was trained with another [data] preprocess"),
    ],
)
def test_a_teacher_at_chance_fails_a_check_and_is_told_why_where_it_can_be(
    tmp_path: Path, change: Callable[[Arrays], Arrays], text: str, why: str
) -> None:
    outcome = checked(tmp_path, change(hues()), text)
    (message,) = errors(outcome)
    assert outcome.exit_code == 4
    assert message.startswith("teacher: accuracy ")
    assert "where one answer for all reaches 33.3%: nothing is to be learned from it" in message
    assert why in message


def test_each_further_teacher_with_weights_is_checked_too(tmp_path: Path) -> None:
    nothing = {name: torch.zeros_like(tensor) for name, tensor in knowing().state_dict().items()}
    torch.save(nothing, tmp_path / "other.pt")
    more = '[[teacher.more]]\nmodel = { file = "models.py:make" }\n'
    outcome = checked(tmp_path, hues(), f'{RECIPE}{more}{more}weights = "other.pt"\n')
    assert [each["name"] for each in outcome.document["teachers"]] == ["teacher", "teacher-3"]
    (message,) = errors(outcome)
    assert message.startswith("teacher-3: accuracy 33.3% [")


def test_a_teacher_that_a_run_would_train_is_not_checked_with_the_data(tmp_path: Path) -> None:
    assert checked(tmp_path, hues(), RECIPE.replace('weights = "teacher.pt"', "")).document["teachers"] == []


def test_a_run_stops_at_a_teacher_at_chance(tmp_path: Path) -> None:
    checked(tmp_path, in_other_order(hues()))
    done = invoke("run", tmp_path / "hues.toml", "-w", tmp_path / "ws")
    assert done.exit_code == 4
    assert "edgestill: teacher: accuracy 0.0% [0.0%, 9.6%] on 36 training samples" in done.stderr
    assert "Its classes come in another order: read as green, yellow, red" in done.stderr


def test_a_training_that_taught_no_more_than_chance_stops_the_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TINY.replace("learning_rate = 1e-2", "learning_rate = 1e-9"))
    done = invoke("run", recipe, "-w", tmp_path / "ws")
    assert done.exit_code == 4
    assert "Give it more epochs, another learning rate or more samples" in done.stderr


def scored(folder: Path, network: nn.Module, dataset: Dataset, task: str) -> TeacherScore:
    return teacher_score(network, dataset, dataset.indices("train"), context_in(folder, task=task), "teacher", False)


class Constant(nn.Module):
    """The class that most samples have, and a little noise: right a little more often than the constant answer."""

    def __init__(self, labels: NDArray[Any], more_right: int) -> None:
        super().__init__()
        self._labels, self._more_right = labels, more_right

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers = np.zeros(len(images), np.int64)
        others = np.flatnonzero(self._labels != 0)[: self._more_right]
        answers[others] = self._labels[others]
        return torch.from_numpy(np.eye(3, dtype=np.float32)[answers])


@pytest.mark.parametrize(("more_right", "at_chance"), [(0, True), (3, True), (24, False)])
def test_an_interval_that_merely_touches_chance_is_at_chance(tmp_path: Path, more_right: int, at_chance: bool) -> None:
    dataset = dataset_in(tmp_path)
    network = Constant(dataset.labels(dataset.indices("train")), more_right)
    assert scored(tmp_path, network, dataset, "classification").at_chance == at_chance


def test_where_each_class_is_a_decision_of_its_own_no_order_is_told(tmp_path: Path) -> None:
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 1]] * 12)
    images = np.random.default_rng(0).normal(size=(60, 8, 8)).astype(np.float32)
    images[:, 0] += 3 * labels[:, :1]
    images[:, 1] += 3 * labels[:, 1:]
    save_npz(tmp_path / "own.npz", {"images": images, "labels": labels})
    dataset = dataset_in(tmp_path, task="multi-label", npz="own.npz")

    class Opposite(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 1.5 - images[:, 0, :2].mean(dim=2)

    found = scored(tmp_path, Opposite(), dataset, "multi-label")
    assert found.at_chance
    assert found.advice.startswith("Its classes may come in another order")
