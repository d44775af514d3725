"""From an FP32 graph and images to the graphs that are built: one calibration pass, one graph a family, one in FP16."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.errors import CalibrationError, GraphRefused, PoisonedData
from pipeline.cancellation import Cancellation
from pipeline.errors import DataRejected, NotAcceptable
from pipeline.onnx_file import loaded_graph
from pipeline.progress import Progress
from pipeline.quantizing.calibration_images import asked_for, first_of
from pipeline.quantizing.calibration_notes import confidence_notes, images_notes, value_notes
from pipeline.quantizing.calibration_pass import Pass, measured, taken_from
from pipeline.quantizing.repair import Repairs, Trial
from pipeline.quantizing.settings import BEST, CalibrationData, QuantizationSettings, resolved_family
from pipeline.reporting.result import Finding

if TYPE_CHECKING:
    import onnx

    from calibration.placement.place import Placement
    from calibration.ranges import Ranges
    from calibration.repairs.rounding import Roundings
    from calibration.statistics import Sketches
    from calibration.statistics.evidence import Evidence
    from calibration.weights import WeightMethod

PLACEMENT = "placement.json"
FLOAT16 = "fp16.onnx"
BFLOAT16 = "bf16.onnx"
# Below it the extremes of another sample of images would be visibly others.
FEW_IMAGES = 32
# On which `best` tries each method: what is read of a tensor differs little from image to image.
BEST_SAMPLES = 16


@dataclass(frozen=True)
class Float16:
    """A graph whose float part is FP16 (or BF16), or why there is none."""

    model: onnx.ModelProto | None
    kept_in_float32: Mapping[str, str]
    """Nodes of it that stay FP32, each with its reason."""
    why_none: str | None = None


@dataclass(frozen=True)
class Quantized:
    """What one calibration pass gives."""

    sketches: Sketches
    ranges: Ranges
    int8: Mapping[str, onnx.ModelProto]
    """By family as it was asked for."""
    float16: Float16
    placements: Mapping[str, Placement]
    measured: onnx.ModelProto
    """The prepared graph, whose tensors the ranges are of."""
    beside_float16: Mapping[str, Float16] = field(default_factory=dict)
    """By file name: of each TensorRT family INT8 and FP8 with the rest in FP16, and BF16 where it is asked for."""
    repairs: tuple[Trial, ...] = ()
    """What each repair brought, kept or not."""
    weights: WeightMethod = "max"
    """What the scale of a weight's output channel comes from."""
    roundings: Mapping[str, Roundings] = field(default_factory=dict)
    """By family, where they were kept: its weights' integers."""

    @cached_property
    def evidence(self) -> Evidence:
        """What the ranges rest on."""
        from calibration.statistics.evidence import evidence_of

        return evidence_of(self.ranges, self.sketches)

    def graphs(self) -> dict[str, onnx.ModelProto]:
        """What there is to build, by file name."""
        named = {FLOAT16: self.float16, **self.beside_float16}
        found = {name: graph.model for name, graph in named.items() if graph.model is not None}
        return {**{f"{family}.int8.onnx": model for family, model in self.int8.items()}, **found}

    def missing_graphs(self) -> dict[str, str]:
        """Why a graph has no such form, by file name."""
        named = {FLOAT16: self.float16, **self.beside_float16}
        found = {name: graph.why_none for name, graph in named.items() if graph.why_none is not None}
        floats = {name: each.speed for name, each in self.placements.items() if each.is_float and each.speed}
        left = {
            f"{family}.int8.onnx": f"no {family} INT8 graph, because FP32 is faster: {speed.in_words()}"
            for family, speed in floats.items()
        }
        return {**left, **found}

    def findings(self, modules: Mapping[str, str] | None = None) -> Iterator[Finding]:
        """What the images say of the ranges; `modules` are the source modules of nodes, where they are known."""
        if self.sketches.images < FEW_IMAGES:
            few = f"ranges of {self.sketches.images} images are shaky: a few hundred are usual"
            yield Finding(severity="warning", message=few)
        if self.sketches.origin is not None:
            yield from images_notes(self.sketches.origin, self.evidence.confidence)
        yield from confidence_notes(self.evidence, self.measured, modules or {})
        yield from value_notes(self.sketches, self.measured, modules or {})

    def notes(self, modules: Mapping[str, str] | None = None) -> Iterator[str]:
        """What a person must know of it."""
        yield from (finding.message for finding in self.findings(modules))
        yield from (trial.in_words() for trial in self.repairs)
        for family, placement in self.placements.items():
            if placement.speed is not None and not placement.is_float and placement.speed.products:
                yield f"{family}: {placement.speed.in_words()}"
        yield from self.missing_graphs().values()
        if kept := len(self.float16.kept_in_float32):
            yield f"fp16: {kept} nodes stay FP32; {PLACEMENT} says why"
        if BFLOAT16 in self.beside_float16 and (kept := len(self.beside_float16[BFLOAT16].kept_in_float32)):
            yield f"bf16: {kept} nodes stay FP32; {PLACEMENT} says why"


def quantized(
    graph: Path,
    data: CalibrationData,
    settings: QuantizationSettings,
    progress: Progress,
    cancellation: Cancellation,
    partial_sketches: Path | None = None,
    sketches_of_shards: Sequence[Path] = (),
) -> Quantized:
    """`partial_sketches` is where the pass is saved on the way, and taken up again.

    With `sketches_of_shards` there is no pass: they were measured by `edgestill calibrate`, over the same data.

    Raises DataRejected for poisoned images, NotAcceptable for a graph that cannot be quantized.
    """
    from calibration.statistics.collect import collect
    from calibration.statistics.origin import graph_digest

    with quantization_errors_explained(graph.name):
        model = prepared_graph(graph)
        data = asked_for(data, settings.images, "--images")
        until_tight = settings.method if settings.images == "auto" else None
        wanted = Pass(
            settings.threads, partial=partial_sketches, until_tight=until_tight, channels=settings.channel_extremes
        )
        if sketches_of_shards:
            sketches = taken_from(sketches_of_shards, model, data, wanted)
        else:
            sketches = measured(model, data, wanted, progress, cancellation)
        data, origin = first_of(data, sketches.images), sketches.origin
        repairs = Repairs(model, data, settings) if settings.repair else None
        if repairs and "equalize" in settings.repair and (equalized := repairs.equalized(model)) is not None:
            model, sketches = (
                equalized,
                collect(equalized, data.batches(), threads=settings.threads, channels=settings.channel_extremes),
            )
            sketches.origin = origin and replace(origin, graph=graph_digest(model))
        return _quantized(model, sketches, settings, repairs, data)


def quantized_from_sketches(graph: Path, sketches: Sequence[Path], settings: QuantizationSettings) -> Quantized:
    """From the files that `edgestill calibrate` wrote, one a shard, without repair, which needs data.

    Raises what `quantized` raises.
    """
    from calibration.statistics.origin import graph_digest, merged_shards

    with quantization_errors_explained(graph.name):
        model = prepared_graph(graph)
        return _quantized(model, merged_shards(sketches, graph_digest(model)), settings, None, None)


def _quantized(
    model: onnx.ModelProto,
    sketches: Sketches,
    settings: QuantizationSettings,
    repairs: Repairs | None,
    data: CalibrationData | None,
) -> Quantized:
    from calibration.placement.place import place
    from calibration.qdq import quantize
    from calibration.ranges import ranges_from_sketches

    every = {family: place(model, resolved_family(family)) for family in settings.families}
    placements = {family: each for family, each in every.items() if not each.is_float}
    ranges = _ranges(model, sketches, list(placements.values()), data, settings)
    models = dict.fromkeys(placements, model)
    roundings: dict[str, Roundings] = {}
    int8 = {family: quantize(model, ranges, each, weights=settings.weights) for family, each in placements.items()}
    if repairs and "rounding" in settings.repair:
        roundings, better = repairs.rounded(model, ranges, placements, int8)
        int8 |= better
    if repairs and "bias" in settings.repair:
        for family, placement in placements.items():
            models[family], int8[family] = repairs.bias_corrected(
                model, ranges, family, placement, int8[family], roundings.get(family, {})
            )
    # Half precision must hold every value that was seen, whatever the INT8 method cuts off.
    extremes = ranges_from_sketches(sketches, "minmax")
    float16 = _float16(model, extremes)
    beside = _beside_float16(model, models, ranges, extremes, placements, int8)
    if settings.bf16:
        beside[BFLOAT16] = _bfloat16(model)
    trials = tuple(repairs.trials) if repairs else ()
    return Quantized(sketches, ranges, int8, float16, every, model, beside, trials, settings.weights, roundings)


def _ranges(
    model: onnx.ModelProto,
    sketches: Sketches,
    placements: Sequence[Placement],
    data: CalibrationData | None,
    settings: QuantizationSettings,
) -> Ranges:
    from calibration.methods.best import best_ranges
    from calibration.ranges import ranges_from_sketches

    if settings.method != BEST:
        return ranges_from_sketches(sketches, settings.method)
    if data is None:
        raise CalibrationError("method 'best' runs the graph on samples; give the data, or another method")
    return best_ranges(model, sketches, placements, data.first(BEST_SAMPLES), settings.threads)


def prepared_graph(graph: Path) -> onnx.ModelProto:
    """The graph that is measured and quantized."""
    from calibration.prepare import prepared

    return prepared(loaded_graph(graph))


def with_placements(result: Quantized, changed: Mapping[str, tuple[Placement, onnx.ModelProto]]) -> Quantized:
    """The same calibration with other placements in some families, and the graphs that follow from them."""
    from calibration.ranges import ranges_from_sketches

    placements = {family: placement for family, (placement, _) in changed.items()}
    int8 = {family: graph for family, (_, graph) in changed.items()}
    extremes = ranges_from_sketches(result.sketches, "minmax")
    plain = dict.fromkeys(changed, result.measured)
    beside = _beside_float16(result.measured, plain, result.ranges, extremes, placements, int8)
    return replace(
        result,
        placements={**result.placements, **placements},
        int8={**result.int8, **int8},
        beside_float16={**result.beside_float16, **beside},
    )


@contextlib.contextmanager
def quantization_errors_explained(subject: str) -> Iterator[None]:
    """What calibration refuses becomes a message with the exit code that it has here."""
    try:
        yield
    except PoisonedData as error:
        raise DataRejected(str(error)) from error
    except GraphRefused as error:
        raise NotAcceptable(f"{subject}: {error}") from error
    except CalibrationError as error:
        raise DataRejected(str(error)) from error


def _float16(model: onnx.ModelProto, extremes: Ranges) -> Float16:
    from calibration.float16 import float16_from_float32, float32_nodes

    return _or_reason("FP16", lambda: (float16_from_float32(model, extremes), float32_nodes(model, extremes)))


def _bfloat16(model: onnx.ModelProto) -> Float16:
    from calibration.bfloat16 import bfloat16_from_float32

    return _or_reason("BF16", lambda: bfloat16_from_float32(model))


def _beside_float16(
    model: onnx.ModelProto,
    corrected: Mapping[str, onnx.ModelProto],
    ranges: Ranges,
    extremes: Ranges,
    placements: Mapping[str, Placement],
    int8: Mapping[str, onnx.ModelProto],
) -> dict[str, Float16]:
    from calibration.float16_rest import fp8_graph, with_float16_rest
    from calibration.placement.families import FAMILY

    found: dict[str, Float16] = {}
    for family, placement in placements.items():
        if not FAMILY[placement.family].takes_float16:
            continue
        mixed = partial(with_float16_rest, int8[family], corrected[family], extremes)
        found[f"{family}.int8+fp16.onnx"] = _or_reason(f"{family} INT8 with FP16", mixed)
        fp8 = partial(fp8_graph, model, ranges, placement, extremes)
        found[f"{family}.fp8.onnx"] = _or_reason(f"{family} FP8", fp8)
    return found


def _or_reason(what: str, made: Callable[[], tuple[onnx.ModelProto, Mapping[str, str]]]) -> Float16:
    """INT8 does not need it, so a graph without such a form is no failure until it is asked for."""
    try:
        return Float16(*made())
    except CalibrationError as error:
        return Float16(None, {}, f"no {what} graph, because {str(error).strip()}")


def placement_document(quantized: Quantized) -> dict[str, Any]:
    """Per family, per node: quantized or not, and why; what stays FP32 beside FP16, and why a graph is missing."""
    placements = {family: placement.to_json() for family, placement in quantized.placements.items()}
    bfloat16 = quantized.beside_float16.get(BFLOAT16)
    return {
        **({} if bfloat16 is None else {"float32_in_bf16": dict(bfloat16.kept_in_float32)}),
        "families": placements,
        "repairs": [trial.to_json() for trial in quantized.repairs],
        "float32_in_fp16": dict(quantized.float16.kept_in_float32),
        "missing_graphs": quantized.missing_graphs(),
    }
