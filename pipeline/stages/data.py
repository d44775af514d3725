"""Which sample is used for what, after the checks that keep training from being meaningless."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

from pydantic import AfterValidator, Field, field_serializer, model_validator

from engines.base import BATCH
from pipeline.artifact import Artifact, Artifacts, Splits
from pipeline.checking.data_checks import Examined, findings
from pipeline.checking.reading import Reading
from pipeline.context import Context
from pipeline.data.content_digest import recorded_label
from pipeline.data.dataset import Record
from pipeline.data.preprocess import Preprocess
from pipeline.data.source import BuiltIn, Source, Text
from pipeline.data.splits import SplitName, SplitShares, split_by_content
from pipeline.distillation.augment import Augment
from pipeline.errors import DataRejected, RecipeError
from pipeline.files import atomic
from pipeline.models.interface import MASK
from pipeline.names import checked_distinct
from pipeline.reporting.result import Finding
from pipeline.samples import Samples
from pipeline.samples.arrays import BESIDE
from pipeline.stage import Stage
from pipeline.tasks.task import interface_of


def _checked_identifier(name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"{name!r} cannot name an input or an axis; write letters, digits and '_'")
    if name in (BATCH, *BESIDE):
        raise ValueError(f"'{name}' names something else; choose another name")
    return name


Identifier = Annotated[str, AfterValidator(_checked_identifier)]
AxisNames = Annotated[tuple[Identifier, ...], AfterValidator(checked_distinct)]


@final
class Data(Stage):
    """`[data]`: digits, a .npz, a folder of images a class, or a user's factory."""

    name: ClassVar[str] = "data"
    version: ClassVar[int] = 3
    needs: ClassVar[tuple[type[Artifact], ...]] = ()
    makes: ClassVar[type[Artifact]] = Splits
    tools: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    source: BuiltIn | None = None
    npz: Text | None = None
    folder: Text | None = None
    factory: Text | None = None
    inputs: Mapping[Identifier, AxisNames] = Field(default_factory=dict)
    """Arrays that are fed as they are, with the names of their axes after the samples; none: the samples are images."""
    split: SplitShares = SplitShares()
    preprocess: Preprocess = Preprocess()
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        self.where()
        return self

    @model_validator(mode="after")
    def _inputs_fit(self) -> Data:
        if self.inputs and (source := self.source or self.folder):
            raise ValueError(f"inputs name the arrays of a npz or a factory; '{source}' brings its own")
        if len(self.inputs.get(MASK, ("length",))) != 1:
            raise ValueError(f'inputs.{MASK} says what is padding, so it has one axis, such as ["length"]')
        for key in ("preprocess", "augment"):
            if key in self.model_fields_set and (self.inputs or self.source == "digit-rows"):
                raise ValueError(f"{key} is for images; inputs that are no images are fed as they are")
        return self

    @field_serializer("inputs")
    def _in_order(self, inputs: Mapping[str, tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
        # A network takes its inputs in this order, so it is part of the key, and a table's order is not.
        return list(inputs.items())

    def where(self) -> Source:
        """The source alone."""
        return Source(**{name: getattr(self, name) for name in Source.model_fields})

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:
        return dict([self.where().file(recipe_folder)])

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        del inputs
        examined, found = self.checked(context)
        for finding in found:
            if finding.severity == "error":
                raise DataRejected(finding.message)
            context.say(f"{finding.severity}: {finding.message}")
        preprocess, specs = examined.preprocess, [each.spec for each in examined.statistics]
        declared = {
            "preprocess": preprocess.model_dump(mode="json") if preprocess else None,
            "shape": list(specs[0].shape) if preprocess else None,
        }
        documents: dict[str, Any] = {
            "splits.json": [asdict(record) for record in examined.records],
            "inputs.json": [asdict(spec) for spec in specs],
            "preprocess.json": declared,
            "classes.json": list(examined.samples.classes),
            "source.json": self.where().model_dump(exclude_none=True),
            "augment.json": self.augment.model_dump(),
            "findings.json": [finding.model_dump() for finding in found],
        }
        for name, document in documents.items():
            atomic.write_json(target / name, document)

    def checked(self, context: Context) -> tuple[Examined, list[Finding]]:
        """Reads and checks every sample and writes nothing; raises DataRejected where they cannot be examined."""
        samples = self.where().open(context.recipe_folder, context.task, self.inputs or None)
        reading = Reading(samples, None if samples.axes else self.preprocess, context)
        examined = self._examined(samples, reading, context)
        return examined, [*self._unused(samples), *findings(examined)]

    def _examined(self, samples: Samples, reading: Reading, context: Context) -> Examined:
        reading.run()
        _check_task_takes(reading, samples, context)
        splits = self._splits(samples, reading.digests, context)
        records = [
            Record(samples.id(index), reading.digests[index], recorded_label(samples.labels[index]), splits[index])
            for index in range(len(samples))
        ]
        return Examined(samples, records, reading.preprocess, context.task, reading.statistics, reading.thumbnails)

    def _splits(self, samples: Samples, digests: list[str], context: Context) -> list[SplitName]:
        if samples.splits:
            return list(samples.splits)
        return split_by_content(digests, context.task.strata(samples.labels), self.split, context.seed)

    def _unused(self, samples: Samples) -> Iterator[Finding]:
        """What was given and plays no part."""
        if samples.splits and "split" in self.model_fields_set:
            message = "the data brings its own splits; [data] split is not used"
            yield Finding(severity="warning", message=message)
        if files := samples.left_out:
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            message = f"no images of a class, left out: {', '.join(files[:3])}{more}"
            yield Finding(severity="warning", message=message)


def _check_task_takes(reading: Reading, samples: Samples, context: Context) -> None:
    specs = tuple(each.spec for each in reading.statistics)
    try:
        interface_of(context.task, specs, len(samples.classes))
    except (ValueError, IndexError) as error:
        shapes = ", ".join(f"'{spec.name}' of shape {spec.shape}" for spec in specs)
        raise RecipeError(f"[data] the task '{context.task.name}' does not take inputs {shapes} ({error})") from error
