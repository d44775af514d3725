"""What is said of the data before anything is trained on it; what would make training meaningless is an error."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.input_statistics import InputStatistics
from pipeline.checking.near_duplicates import Thumbnails, near_duplicates
from pipeline.checking.value_checks import value_findings
from pipeline.data.dataset import Record
from pipeline.data.preprocess import Preprocess
from pipeline.data.splits import SPLITS, SplitName
from pipeline.reporting.result import Finding
from pipeline.samples import Samples
from pipeline.tasks.task import Task

NAMED = 3
"""Examples that a finding names; the rest is counted."""
MOST_IMBALANCE = 10
FOR = {"train": "training", "validation": "validation", "calibration": "calibration", "test": "test"}
"""As an adjective."""


@dataclass(frozen=True)
class Examined:
    """Samples that were all read once, and what that showed."""

    samples: Samples
    records: Sequence[Record]
    preprocess: Preprocess | None
    task: Task
    statistics: Sequence[InputStatistics]
    thumbnails: Thumbnails

    def indices(self, split: SplitName) -> NDArray[np.int64]:
        """Of a split's samples."""
        return np.asarray([index for index, record in enumerate(self.records) if record.split == split], np.int64)

    def unit(self) -> str:
        """What the task counts labels by."""
        if self.task.dense:
            return "pixel"
        return self.samples.noun if self.samples.labels.ndim == 1 else "label"

    def ids(self, indices: Sequence[int] | NDArray[np.int64]) -> str:
        """The first few, and how many more."""
        names = [self.records[index].id for index in indices[:NAMED]]
        return ", ".join(names) + (f" and {len(indices) - NAMED} more" if len(indices) > NAMED else "")


def findings(examined: Examined) -> Iterator[Finding]:
    """Errors first: with one of them nothing else is worth the look."""
    errors = list(_errors(examined))
    yield from errors
    yield from _sizes(examined)
    if errors:
        return
    yield from _classes(examined)
    for each in examined.statistics:
        yield from value_findings(each, examined.preprocess, examined.indices("train"), examined.ids)
    yield from _repetitions(examined)
    yield from _near_duplicates(examined)
    yield from _label_maps(examined)


def _errors(examined: Examined) -> Iterator[Finding]:
    first: dict[str, Record] = {}
    for record in examined.records:
        other = first.setdefault(record.sha256, record)
        if other.split != record.split:
            yield _error(
                f"the same {examined.samples.noun} stands in two splits: {other.id} in {other.split} and "
                f"{record.id} in {record.split}; accuracy on it would mean nothing"
            )
            break
    counts = Counter(record.split for record in examined.records)
    if empty := [name for name in SPLITS if not counts[name]]:
        nouns = f"{examined.samples.noun}s"
        mend = (
            f"give it {nouns}" if examined.samples.splits else f"add {nouns} or give it a larger share in [data] split"
        )
        yield _error(
            f"{len(examined.records)} samples, {len(first)} of them distinct, leave the {empty[0]} split empty; {mend}"
        )
        return
    yield from _without_labels(examined)
    train = examined.indices("train")
    if _all_equal(examined.samples.labels[train]):
        yield _error(f"every training {examined.samples.noun} has the same label; there is nothing to learn")
    for each in examined.statistics:
        if each.is_image and len(np.intersect1d(each.constant(), train)) == len(train):
            yield _error("every training image is of one value throughout; there is nothing to see")


def _without_labels(examined: Examined) -> Iterator[Finding]:
    """Splits that nothing could be learned from or judged on, though samples are there."""
    for split, counts in class_counts(examined).items():
        if split != "calibration" and not counts.any():
            yield _error(
                f"no {examined.samples.noun} of the {split} split has a label of any class, so its "
                f"{examined.task.metric} would mean nothing; give it samples with labels"
            )


def _all_equal(labels: NDArray[np.generic]) -> bool:
    return bool((labels == labels[:1]).all())


def _sizes(examined: Examined) -> Iterator[Finding]:
    counts = Counter(record.split for record in examined.records)
    sizes = ", ".join(f"{name} {counts[name]}" for name in SPLITS)
    nouns, classes = f"{examined.samples.noun}s", len(examined.samples.classes)
    yield _note(f"{len(examined.records)} {nouns} of {classes} {'class' if classes == 1 else 'classes'}: {sizes}")


def class_counts(examined: Examined) -> dict[SplitName, NDArray[np.int64]]:
    """How often each class occurs in each split; empty where the task has no classes."""
    labels, classes = examined.samples.labels, len(examined.samples.classes)
    counts = {name: examined.task.class_counts(labels[examined.indices(name)], classes) for name in SPLITS}
    return counts if all(each.size == classes for each in counts.values()) else {}


def _classes(examined: Examined) -> Iterator[Finding]:
    counts, names, unit = class_counts(examined), examined.samples.classes, examined.unit()
    if not counts:
        return
    ends = "; ".join(f"{split} {_ends(each, names)}" for split, each in counts.items())
    yield _note(f"{unit}s of the rarest and the commonest class: {ends}")
    everywhere = np.flatnonzero(counts["train"] == 0)
    yield from _absent(everywhere, "train", unit, names)
    for split in ("validation", "test"):
        yield from _absent(np.setdiff1d(np.flatnonzero(counts[split] == 0), everywhere), split, unit, names)
    there = np.flatnonzero(counts["train"])
    if len(there) < 2:
        return
    rare, common = (there[pick] for pick in (counts["train"][there].argmin(), counts["train"][there].argmax()))
    fewest, most = counts["train"][rare], counts["train"][common]
    if most > MOST_IMBALANCE * fewest:
        say = _note if examined.task.dense else _warning  # ground is most of every picture
        yield say(
            f"class '{names[common]}' has {most / fewest:.0f} times as many training {unit}s as '{names[rare]}' "
            f"({most} and {fewest}); class weights make up for that"
        )


def _ends(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    fewest, most = int(counts.argmin()), int(counts.argmax())
    if fewest == most:
        return f"{counts[most]} of each"
    return f"{counts[fewest]} ('{names[fewest]}') to {counts[most]} ('{names[most]}')"


def _absent(classes: NDArray[np.int64], split: SplitName, unit: str, names: Sequence[str]) -> Iterator[Finding]:
    if len(classes) == 1:
        yield _warning(f"class '{names[classes[0]]}' has no {FOR[split]} {unit}")
    elif len(classes):
        more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
        shown = ", ".join(f"'{names[each]}'" for each in classes[:NAMED])
        yield _warning(f"{len(classes)} classes have no {FOR[split]} {unit}: {shown}{more}")


def _repetitions(examined: Examined) -> Iterator[Finding]:
    by_content: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(examined.records):
        by_content[record.sha256].append(index)
    repeated = [group for group in by_content.values() if len(group) > 1]
    if repeated:
        nouns = f"{examined.samples.noun}s"
        yield _warning(f"{len(repeated)} {nouns} occur more than once; each stays within one split")
    apart = [group for group in repeated if len({examined.records[index].label for index in group}) > 1]
    for group in apart[:NAMED]:
        yield _warning(f"equal {examined.samples.noun}s have different labels: {examined.ids(group)}")
    if len(apart) > NAMED:
        yield _warning(f"{len(apart) - NAMED} more {examined.samples.noun}s occur with different labels")


def _near_duplicates(examined: Examined) -> Iterator[Finding]:
    records, thumbnails = examined.records, examined.thumbnails
    found = near_duplicates(thumbnails, {name: examined.indices(name) for name in SPLITS}, "train")
    if thumbnails.step > 1:
        yield _note(f"every {thumbnails.step}. image was compared with the others for near-identical ones")
    if found:
        pairs = [(records[each.index], records[each.other]) for each in found[:NAMED]]
        shown = ", ".join(f"{one.id} in {one.split} and {two.id} in {two.split}" for one, two in pairs)
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        yield _warning(
            f"{len(found)} images outside the training split look like one of another split: {shown}{more}; "
            "accuracy on them flatters: give what belongs together one split"
        )


def _label_maps(examined: Examined) -> Iterator[Finding]:
    if not examined.task.dense:
        return
    labels = examined.samples.labels
    empty = np.flatnonzero([not label.any() for label in labels])
    if len(empty):
        say = _warning if len(empty) > len(labels) / 2 else _note
        name = examined.samples.classes[0] if examined.samples.classes else "0"
        yield say(f"{len(empty)} of {len(labels)} label maps hold class '{name}' alone: {examined.ids(empty)}")


def _note(message: str) -> Finding:
    return Finding(severity="note", message=message)


def _warning(message: str) -> Finding:
    return Finding(severity="warning", message=message)


def _error(message: str) -> Finding:
    return Finding(severity="error", message=f"[data] {message}")
