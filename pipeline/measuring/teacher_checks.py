"""Whether a teacher knows anything of the data; where it does not, which order of classes or preprocessing it would.

Imports torch inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.data.preprocess import Preprocess
from pipeline.errors import DataRejected
from pipeline.measuring.accuracy import metric_interval
from pipeline.measuring.predictions import predictions
from pipeline.tasks.intervals import Interval, share
from pipeline.tasks.task import Task

if TYPE_CHECKING:
    from torch import nn

TRIED = 64
"""Training samples that another preprocessing is tried on: each try runs the network on all of them."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RGB = 3


@dataclass(frozen=True)
class TeacherScore:
    """Of one teacher on training samples, beside the best answer that does not look at them."""

    title: str
    metric: str
    found: Interval
    chance: float
    advice: str = ""
    """At chance: what would mend it."""

    @property
    def at_chance(self) -> bool:
        """Whether the interval touches what one answer for all reaches."""
        return not self.found.low > self.chance

    def in_words(self) -> str:
        """For the log, and for a finding."""
        found = self.found
        return (
            f"{self.title}: {self.metric} {found.value:.1%} [{found.low:.1%}, {found.high:.1%}] on {found.n} training "
            f"samples, where one answer for all reaches {self.chance:.1%}"
        )

    def require(self) -> None:
        """Raises DataRejected at chance."""
        if self.at_chance:
            raise DataRejected(self.rejected())

    def rejected(self) -> str:
        """What is said of a teacher at chance."""
        return f"{self.in_words()}: nothing is to be learned from it. {self.advice}"

    def to_json(self) -> dict[str, Any]:
        """For a document."""
        found = self.found
        interval = {"value": found.value, "low": found.low, "high": found.high, "samples": found.n}
        return {"name": self.title, "metric": self.metric, **interval, "chance": self.chance}


def teacher_score(
    network: nn.Module, dataset: Dataset, indices: NDArray[np.int64], context: Context, title: str, trained_here: bool
) -> TeacherScore:
    """On these samples; at chance it costs a few more looks, to tell why."""
    outputs, labels = predictions(network, dataset, indices), dataset.labels(indices)
    chance = context.task.chance(labels, len(dataset.classes))
    found = metric_interval(context.task, context.task.statistics(outputs, labels))
    score = TeacherScore(title, context.task.metric, found, chance)
    if not score.at_chance:
        return score
    told = _other_order(outputs, labels, dataset.classes, context.task)
    if told is None and not trained_here:
        told = _other_preprocessing(network, dataset, indices, chance, context)
    unknown = (
        "Give it more epochs, another learning rate or more samples: its training taught it no more than chance"
        if trained_here
        else "Its classes may come in another order, or it was trained with another [data] preprocess"
    )
    return replace(score, advice=told or unknown)


def _other_order(
    outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any], classes: tuple[str, ...], task: Task
) -> str | None:
    """Which order of the classes would make the teacher right, where one would."""
    decisions = _decisions(outputs, labels, len(classes), task)
    if decisions is None:
        return None
    answers, wanted = decisions
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (wanted, answers), 1)
    there = np.flatnonzero(confusion.sum(axis=1))
    output_of = confusion.argmax(axis=1)
    if len(set(output_of[there].tolist())) < len(there):
        return None
    right = output_of[wanted] == answers
    if not _is_an_answer(share(right), float(confusion.sum(axis=1).max() / len(wanted))):
        return None
    class_of = {int(output_of[each]): classes[each] for each in there}
    order = ", ".join(class_of.get(output, "?") for output in range(len(classes)))
    return (
        f"Its classes come in another order: read as {order}, its outputs are right in {right.mean():.1%} of "
        "all cases; number the classes of the data so, or reorder the rows of its last layer"
    )


def _decisions(
    outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any], classes: int, task: Task
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(answered, wanted) class of every decision that has a label; None where decisions are not between the classes."""
    if not task.has_logits:
        return None
    import torch

    logits = task.logit_rows({name: torch.from_numpy(each) for name, each in outputs.items()}).numpy()
    wanted = task.label_rows(torch.from_numpy(labels)).numpy()
    counted = wanted >= 0
    if logits.shape[1] != classes or not counted.any():
        return None
    counts = np.bincount(wanted[counted], minlength=classes)
    # A class of a multi-label task is a decision of its own, between absent and present.
    if not np.array_equal(counts, task.class_counts(labels, classes)):
        return None
    return logits[counted].argmax(axis=1), wanted[counted]


def _other_preprocessing(
    network: nn.Module, dataset: Dataset, indices: NDArray[np.int64], chance: float, context: Context
) -> str | None:
    """Which scale, normalization or order of channels would make the teacher right, where one would."""
    if dataset.preprocess is None:
        return None
    some = indices[np.linspace(0, len(indices) - 1, min(TRIED, len(indices))).astype(np.int64)]
    best: tuple[float, str] | None = None
    for preprocess, is_reversed in _tries(dataset, some):
        context.cancellation.check()
        found = _tried(network, replace(dataset, preprocess=preprocess), some, is_reversed, context.task)
        if _is_an_answer(found, chance) and (best is None or found.value > best[0]):
            best = found.value, _written(preprocess, dataset.preprocess, is_reversed)
    if best is None:
        return None
    return f"It was trained with another preprocessing: with {best[1]} it reaches {best[0]:.1%} on {len(some)} of them"


def _tries(dataset: Dataset, some: NDArray[np.int64]) -> Iterator[tuple[Preprocess, bool]]:
    """Usual ones, each with the channels as they are and, of three, in reverse order; the recipe's own comes first."""
    own = dataset.preprocess or Preprocess()
    raws = (dataset.samples.raw(index) for index in some.tolist())
    brightest = max(float(raw.max()) for raw in raws if isinstance(raw, np.ndarray))
    coloured = dataset.interface.inputs[0].shape[0] == RGB
    normalizations = [((0.0,), (1.0,)), ((0.5,), (0.5,)), *([IMAGENET] if coloured else [])]
    scales = dict.fromkeys([1.0, 1 / 255, *([1 / brightest] if brightest > 0 else [])])
    others = [
        own.model_copy(update={"scale": scale, "mean": mean, "std": std})
        for scale, (mean, std) in product(scales, normalizations)
    ]
    for preprocess, is_reversed in product([own, *others], [False, True] if coloured else [False]):
        if preprocess != own or is_reversed:
            yield preprocess, is_reversed


def _tried(network: nn.Module, dataset: Dataset, indices: NDArray[np.int64], is_reversed: bool, task: Task) -> Interval:
    hook = network.register_forward_pre_hook(lambda _, inputs: (inputs[0].flip(1),)) if is_reversed else None
    try:
        outputs = predictions(network, dataset, indices)
    finally:
        if hook is not None:
            hook.remove()
    return metric_interval(task, task.statistics(outputs, dataset.labels(indices)))


def _is_an_answer(found: Interval, chance: float) -> bool:
    """Whether it is no accident: nearer to perfect than to chance, and surely above."""
    return found.low > chance and found.value >= (1 + chance) / 2


def _written(preprocess: Preprocess, own: Preprocess, is_reversed: bool) -> str:
    """As a recipe has it."""
    mean, std = (", ".join(f"{each:g}" for each in values) for values in (preprocess.mean, preprocess.std))
    table = f"preprocess = {{ scale = {preprocess.scale:.8g}, mean = [{mean}], std = [{std}] }}"
    said = [
        "" if preprocess == own else table,
        "the channels in reverse order (BGR for RGB, or the other way round)" if is_reversed else "",
    ]
    return " and ".join(part for part in said if part)
