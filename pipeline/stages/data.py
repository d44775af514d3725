"""Which sample is used for what, after the checks that keep training from being meaningless."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
from pydantic import model_validator

from pipeline import atomic
from pipeline.artifact import Artifact, Artifacts, Splits
from pipeline.context import Context
from pipeline.data import Record, Source, Text, content_digest
from pipeline.distillation.augment import Augment
from pipeline.errors import DataRejected
from pipeline.preprocess import Preprocess
from pipeline.samples import Samples
from pipeline.splits import SPLITS, SplitName, SplitShares, split_by_content
from pipeline.stage import Stage


@final
class Data(Stage):
    """`[data]`: digits, a .npz, a folder of images a class, or a user's factory."""

    name: ClassVar[str] = "data"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[type[Artifact], ...]] = ()
    makes: ClassVar[type[Artifact]] = Splits
    tools: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    source: Literal["digits"] | None = None
    npz: Text | None = None
    folder: Text | None = None
    factory: Text | None = None
    split: SplitShares = SplitShares()
    preprocess: Preprocess = Preprocess()
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        self.where()
        return self

    def where(self) -> Source:
        """The source alone."""
        return Source(**{name: getattr(self, name) for name in Source.model_fields})

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:
        return dict([self.where().file(recipe_folder)])

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        del inputs
        samples = self.where().open(context.recipe_folder)
        _check_labels(samples)
        seen = self._read(samples, context)
        splits = self._splits(samples, seen.digests, context.seed)
        records = [
            Record(samples.id(index), seen.digests[index], int(samples.labels[index]), splits[index])
            for index in range(len(samples))
        ]
        findings = [*self._unused(samples), *_findings(records, samples.classes, seen.moments)]
        for finding in findings:
            context.say(f"{finding['severity']}: {finding['message']}")
        atomic.write_json(target / "splits.json", [asdict(record) for record in records])
        declared = {"preprocess": seen.preprocess.model_dump(mode="json"), "shape": list(seen.shape)}
        atomic.write_json(target / "preprocess.json", declared)
        atomic.write_json(target / "classes.json", list(samples.classes))
        atomic.write_json(target / "source.json", self.where().model_dump(exclude_none=True))
        atomic.write_json(target / "augment.json", self.augment.model_dump())
        atomic.write_json(target / "findings.json", findings)

    def _read(self, samples: Samples, context: Context) -> _Seen:
        """Every image once, decoded, checked and hashed."""
        seen = _Seen(self.preprocess.for_images_like(samples.raw(0), f"[data] image {samples.id(0)}"))
        with context.progress.phase("reading images", len(samples)) as phase:
            for index in range(len(samples)):
                context.cancellation.check()
                seen.add(samples.raw(index), samples.id(index))
                phase.advance()
        return seen

    def _splits(self, samples: Samples, digests: list[str], seed: int) -> list[SplitName]:
        given = samples.splits
        splits = list(given) if given else split_by_content(digests, samples.labels, self.split, seed)
        _check_disjoint(samples, digests, splits)
        counts = Counter(splits)
        if empty := [name for name in SPLITS if not counts[name]]:
            mend = "give it images" if given else "add images or give it a larger share in [data] split"
            raise DataRejected(
                f"[data] {len(samples)} samples, {len(set(digests))} of them distinct, leave the {empty[0]} split "
                f"empty; {mend}"
            )
        return splits

    def _unused(self, samples: Samples) -> Iterator[dict[str, str]]:
        """What was given and plays no part."""
        if samples.splits and "split" in self.model_fields_set:
            yield _warning("the data brings its own splits; [data] split is not used")
        if files := samples.left_out:
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            yield _warning(f"no images of a class, left out: {', '.join(files[:3])}{more}")


class _Moments:
    """Mean and standard deviation over all preprocessed pixels, in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, image: np.ndarray[Any, Any]) -> None:
        wide = image.astype(np.float64)
        self.count += wide.size
        self.total += float(wide.sum())
        self.squares += float((wide * wide).sum())

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def std(self) -> float:
        return float(np.sqrt(max(self.squares / self.count - self.mean**2, 0.0)))


class _Seen:
    """What one pass over the images leaves."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess, self.moments = preprocess, _Moments()
        self.digests: list[str] = []
        self.shape: tuple[int, ...] = ()

    def add(self, raw: np.ndarray[Any, Any], sample_id: str) -> None:
        """Raises DataRejected where the image is empty, not finite or of another shape than those before it."""
        image = self.preprocess.apply(raw, f"[data] image {sample_id}")
        if self.shape and image.shape != self.shape:
            raise DataRejected(
                f"[data] image {sample_id} has shape {image.shape} after preprocessing, the ones before it "
                f"{self.shape}; set [data] preprocess.resize, or resize and crop"
            )
        self.shape = image.shape
        self.moments.add(image)
        self.digests.append(content_digest(raw))


def _check_labels(samples: Samples) -> None:
    if len(samples) < 2:
        raise DataRejected(
            f"[data] holds {len(samples)} samples; training, validation, calibration and test each need some"
        )
    if len(np.unique(samples.labels)) < 2:
        raise DataRejected("[data] every image has the same label; there is nothing to learn")


def _check_disjoint(samples: Samples, digests: list[str], splits: list[SplitName]) -> None:
    first: dict[str, int] = {}
    for index, digest in enumerate(digests):
        other = first.setdefault(digest, index)
        if splits[other] != splits[index]:
            raise DataRejected(
                f"[data] the same image stands in two splits: {samples.id(other)} in {splits[other]} and "
                f"{samples.id(index)} in {splits[index]}; accuracy on it would mean nothing"
            )


def _findings(records: list[Record], classes: tuple[str, ...], moments: _Moments) -> Iterator[dict[str, str]]:
    counts = Counter(record.split for record in records)
    sizes = ", ".join(f"{name} {counts[name]}" for name in SPLITS)
    yield _note(f"{len(records)} images of {len(classes)} classes: {sizes}")
    yield _note(f"after preprocessing the pixels have mean {moments.mean:.3g} and deviation {moments.std:.3g}")
    if not 0.05 <= moments.std <= 20 or abs(moments.mean) > 10 * max(moments.std, 1e-9):
        yield _warning("the pixels are far from unit scale: is [data] preprocess the teacher's own?")
    yield from _repetitions(records)
    seen = Counter(record.label for record in records if record.split == "train")
    for label, name in enumerate(classes):
        if not seen[label]:
            yield _warning(f"class '{name}' has no training image")


def _repetitions(records: list[Record]) -> Iterator[dict[str, str]]:
    by_content: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_content[record.sha256].append(record)
    repeated = [group for group in by_content.values() if len(group) > 1]
    if repeated:
        yield _warning(f"{len(repeated)} images occur more than once; each stays within one split")
    for group in repeated:
        if len({record.label for record in group}) > 1:
            yield _warning(f"equal images have different labels: {', '.join(record.id for record in group[:3])}")


def _note(message: str) -> dict[str, str]:
    return {"severity": "note", "message": message}


def _warning(message: str) -> dict[str, str]:
    return {"severity": "warning", "message": message}
