"""The ranges that the activations take, and the graphs that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from calibration.weights import WeightMethod
from engines import ENGINES
from pipeline.artifact import FINDINGS, SENSITIVITY, Artifact, Artifacts, Graph, Graphs, Splits
from pipeline.context import Context
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.errors import DataRejected, RecipeError
from pipeline.files import atomic
from pipeline.files.digest import sha256_of_value
from pipeline.files.onnx_file import write_graph
from pipeline.names import checked_distinct
from pipeline.quantizing.inputs.calibration_images import evenly_spaced
from pipeline.quantizing.judging.yardstick import JudgingData, TaskMetric
from pipeline.quantizing.quantization import quantized
from pipeline.quantizing.quantized import PLACEMENT, placement_document
from pipeline.quantizing.repairing.repair_metric import METRIC_SAMPLES, RepairJudge
from pipeline.quantizing.sensitivity.budget import Budget, Latencies, latencies_from_json
from pipeline.quantizing.sensitivity.layer_costs import Sensitivity
from pipeline.quantizing.sensitivity.mixed_precision import Judging, judged, notes, sensitivity_document
from pipeline.quantizing.settings import (
    DEFAULT_METHOD,
    DEFAULT_REPAIR,
    CalibrationData,
    QuantizationSettings,
    Repair,
    check_repair_beside_caches,
    checked_cache_versions,
    checked_families,
    checked_method,
    checked_repair,
    resolved_family,
)
from pipeline.quantizing.tensorrt_ranges import for_tensorrt
from pipeline.stage import Stage

if TYPE_CHECKING:
    from calibration.statistics.collect import Batch


Indices = np.ndarray[Any, np.dtype[np.int64]]


@final
class Calibrate(Stage):
    """`[calibrate]`."""

    name: ClassVar[str] = "calibrate"
    version: ClassVar[int] = 23
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Graph)
    makes: ClassVar[type[Artifact]] = Graphs
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")

    method: Annotated[str, BeforeValidator(checked_method)] = checked_method(DEFAULT_METHOD)
    """A name, or a table of a name and its setting: `{ name = "percentile", percentile = 99.99 }`."""
    images: Literal["all", "auto"] | PositiveInt = "all"
    """How many of the calibration split, from its start; `auto`: until the ranges are tight."""
    sketches: Annotated[tuple[str, ...], AfterValidator(checked_distinct)] = ()
    """Files of `edgestill calibrate RECIPE`, one a shard, relative to the recipe; without any the stage measures."""
    channel_extremes: bool = False
    """Whether sketches.npz and ranges.json hold the extremes of each channel, for a second run of each image."""
    batch_size: PositiveInt = 32
    families: Annotated[
        tuple[str, ...], Field(min_length=1), AfterValidator(checked_families), AfterValidator(checked_distinct)
    ] = ("cpu",)
    """Placement families; `cpu` is this machine's."""
    tensorrt_cache: Annotated[tuple[str, ...], AfterValidator(checked_cache_versions)] = ()
    """Versions of TensorRT 8.x to 10.x, such as 10.3.0, that get a calibration cache."""

    bf16: bool = False
    """Whether bf16.onnx is written, for targets that ask for it."""
    sensitivity: Sensitivity = "local"
    """How closely the report looks at each layer."""
    budget: Budget | None = None
    """`[calibrate.budget]`: layers stay in float until it holds."""
    weights: WeightMethod = "max"
    """What the scale of a weight's output channel comes from: its largest weight, or the least squared error."""
    repair: Annotated[tuple[Repair, ...], BeforeValidator(checked_repair)] = DEFAULT_REPAIR
    """What is tried, and kept where it brings something; "auto" is all there are, "none" none."""

    @model_validator(mode="after")
    def _caches_are_of_the_exported_graph(self) -> Calibrate:
        check_repair_beside_caches(self.repair, self.tensorrt_cache)
        return self

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:
        named = {name: f"sketches '{name}'" for name in self.sketches}
        if self.budget is not None and self.budget.latencies is not None:
            named[self.budget.latencies] = f"budget.latencies '{self.budget.latencies}'"
        found = {name: recipe_folder / name for name in named}
        for name, path in found.items():
            if not path.is_file():
                raise RecipeError(f"{named[name]}: there is no file {path}; paths are relative to the recipe")
        self._latencies(recipe_folder)
        return found

    def _latencies(self, recipe_folder: Path) -> Mapping[str, Latencies]:
        if self.budget is None or self.budget.latencies is None:
            return {}
        return latencies_from_json(recipe_folder / self.budget.latencies, "budget.latencies", self.families)

    def surroundings(self) -> Mapping[str, Any]:
        return {
            "families": {family: resolved_family(family) for family in self.families},
            # `tools` finds onnxruntime under one of its distributions' names alone.
            "onnxruntime": ENGINES["onnxruntime"].versions(),
        }

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        dataset = open_dataset(inputs[Splits], context)
        indices = self._indices(dataset)
        settings = QuantizationSettings(
            self.method,
            self.families,
            context.threads,
            self.tensorrt_cache,
            self.weights,
            self.repair,
            "auto" if self.images == "auto" else "all",
            self.channel_extremes,
            self.bf16,
        )
        result = quantized(
            inputs[Graph].model,
            self.data(dataset),
            settings,
            context.progress,
            context.cancellation,
            context.checkpoints / "sketches.partial",
            tuple(context.recipe_folder / name for name in self.sketches),
            self._repair_judge(dataset, context),
        )
        if (judging := self._judging(dataset, indices, inputs, context)) is not None:
            result, found = judged(result, judging, context.progress, context.cancellation)
            atomic.write_json(target / SENSITIVITY, sensitivity_document(found, judging))
            for note in notes(found, judging):
                context.say(f"calibrate: {note}")
        beside = for_tensorrt(result.measured, result.ranges, settings, inputs[Graph].model)
        result.sketches.save(target / "sketches.npz")
        result.evidence.save(target / "ranges.json")
        atomic.write_json(target / PLACEMENT, placement_document(result))
        for name, model in result.graphs().items():
            write_graph(target / name, model)
        if beside is not None:
            beside.write(target)
        images, tensors = result.sketches.images, len(result.ranges.tensors)
        context.say(f"calibrate: {self.method} over {images} samples, {tensors} tensors")
        modules = inputs[Graph].json("modules.json")
        atomic.write_json(target / FINDINGS, [finding.model_dump() for finding in result.findings(modules)])
        for note in result.notes(modules):
            context.say(f"calibrate: {note}")

    def data(self, dataset: Dataset) -> CalibrationData:
        """What is measured, `images = "auto"` aside."""
        indices = self._indices(dataset)
        return CalibrationData(
            len(indices),
            lambda: self._batches(dataset, indices),
            lambda start, stop: self._batches(dataset, indices[start:stop]),
            lambda numbers: self._batches(dataset, indices[list(numbers)]),
            lambda: sha256_of_value([dataset.records[index].sha256 for index in indices.tolist()]),
        )

    def _indices(self, dataset: Dataset) -> Indices:
        indices = dataset.indices("calibration")
        if isinstance(self.images, str):
            return indices
        if self.images > len(indices):
            raise DataRejected(
                f"[calibrate] images = {self.images}, but the calibration split has {len(indices)}; "
                "lower it or give the split a larger share"
            )
        return indices[: self.images]

    def _judging(self, dataset: Dataset, calibration: Indices, inputs: Artifacts, context: Context) -> Judging | None:
        """On the validation split; what needs no labels, and is no judgement of a graph, on the calibration split."""
        if self.budget is None and self.sensitivity == "off":
            return None
        judges = self.budget is not None or self.sensitivity != "local"
        indices = dataset.indices("validation") if judges else calibration
        if not len(indices):
            raise DataRejected("[calibrate] judges graphs on the validation split, which is empty: give it a share")
        return Judging(
            data=self._judging_data(dataset, indices, "validation split" if judges else "calibration split", judges),
            yardstick=TaskMetric(context.task) if judges else None,
            sensitivity=self.sensitivity,
            budget=self.budget,
            remembered=context.checkpoints / "evaluations.json",
            threads=context.threads,
            latencies=self._latencies(context.recipe_folder),
            modules=inputs[Graph].json("modules.json"),
        )

    def _repair_judge(self, dataset: Dataset, context: Context) -> RepairJudge | None:
        """By the task's metric, on some of the validation split; None where either is missing."""
        indices = dataset.indices("validation")
        if not self.repair or not len(indices):
            return None
        some = indices[evenly_spaced(len(indices), METRIC_SAMPLES)]
        data = replace(self._judging_data(dataset, some, "validation split", labelled=True), of_samples=len(indices))
        return RepairJudge(data, TaskMetric(context.task), context.threads, context.progress, context.cancellation)

    def _judging_data(self, dataset: Dataset, indices: Indices, called: str, labelled: bool) -> JudgingData:
        return JudgingData(
            len(indices),
            lambda: self._batches(dataset, indices),
            dataset.labels(indices) if labelled else None,
            called,
            sha256_of_value([dataset.records[index].sha256 for index in indices.tolist()]),
        )

    def _batches(self, dataset: Dataset, indices: Indices) -> Iterator[Batch]:
        from calibration.statistics.collect import Batch

        for start in range(0, len(indices), self.batch_size):
            part = indices[start : start + self.batch_size]
            yield Batch(dataset.ids(part), dataset.inputs(part))
