"""From an FP32 graph and images to the graphs that are built: one calibration pass, one graph a family, one in FP16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.errors import CalibrationError
from pipeline.files.onnx_file import loaded_graph
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.calibration_pass import Pass, measured, taken_from
from pipeline.quantizing.float_forms import Ranged, bfloat16_form, float16_form, forms_beside
from pipeline.quantizing.inputs.calibration_images import asked_for, first_of
from pipeline.quantizing.measured import Measured
from pipeline.quantizing.quantization_errors import quantization_errors_explained
from pipeline.quantizing.quantized import BFLOAT16, Quantized
from pipeline.quantizing.repairing.repair import Repairs
from pipeline.quantizing.repairing.repair_metric import RepairJudge
from pipeline.quantizing.settings import BEST, CalibrationData, QuantizationSettings, resolved_family

if TYPE_CHECKING:
    import onnx

    from calibration.placement.place import Placement
    from calibration.ranges import Ranges
    from calibration.repairs.rounding import Roundings
    from calibration.statistics import Sketches

# On which `best` tries each method: what is read of a tensor differs little from image to image.
BEST_SAMPLES = 16


def quantized(
    graph: Path,
    data: CalibrationData,
    settings: QuantizationSettings,
    progress: Progress,
    cancellation: Cancellation,
    partial_sketches: Path | None = None,
    sketches_of_shards: Sequence[Path] = (),
    judge: RepairJudge | None = None,
) -> Quantized:
    """`partial_sketches` is where the pass is saved on the way, and taken up again; `judge` has labels for repairs.

    With `sketches_of_shards` there is no pass: they were measured by `edgestill calibrate`, over the same data.

    Raises DataRejected for poisoned images, NotAcceptable for a graph that cannot be quantized.
    """
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
        data = first_of(data, sketches.images)
        repairs = Repairs(model, data, settings, judge) if settings.repair else None
        return _quantized(_moved(Measured(model, sketches), settings, repairs, data), settings, repairs, data)


def _moved(found: Measured, settings: QuantizationSettings, repairs: Repairs | None, data: CalibrationData) -> Measured:
    """With what equalization and shifts make of its channels, where they are asked for and gain, measured again."""
    if repairs is None:
        return found
    model = found.model
    if "equalize" in repairs.wanted:
        model = repairs.equalized(model) or model
    if "shift" in repairs.wanted:
        model = repairs.shifted(model) or model
    return found if model is found.model else found.over(model, data, settings)


def quantized_from_sketches(
    graph: Path,
    sketches: Sequence[Path],
    settings: QuantizationSettings,
    data: CalibrationData | None = None,
    judge: RepairJudge | None = None,
) -> Quantized:
    """From the files that `edgestill calibrate` wrote, one a shard, of any data.

    `data` is what repairs are made from, some of what was measured; without any none is tried. Repairs that move
    channels are not for it. Raises what `quantized` raises.
    """
    from calibration.statistics.origin import graph_digest, merged_shards

    with quantization_errors_explained(graph.name):
        model = prepared_graph(graph)
        merged = merged_shards(sketches, graph_digest(model))
        repairs = Repairs(model, data, settings, judge) if data is not None and settings.repair else None
        return _quantized(Measured(model, merged), settings, repairs, data)


def _quantized(
    found: Measured,
    settings: QuantizationSettings,
    repairs: Repairs | None,
    data: CalibrationData | None,
) -> Quantized:
    from calibration.placement.place import place
    from calibration.qdq import quantize
    from calibration.ranges import ranges_from_sketches

    model, sketches = found.model, found.sketches
    every = {family: place(model, resolved_family(family)) for family in settings.families}
    placements = {family: each for family, each in every.items() if not each.is_float}
    ranges = _ranges(model, sketches, list(placements.values()), data, settings)
    models = dict.fromkeys(placements, model)
    roundings: dict[str, Roundings] = {}
    int8 = {family: quantize(model, ranges, each, weights=settings.weights) for family, each in placements.items()}
    if repairs and "widen" in repairs.wanted and (wide := repairs.widened(model, sketches, ranges, placements, int8)):
        (ranges, int8), settings = wide, replace(settings, method="minmax")
    if repairs and "rounding" in repairs.wanted:
        roundings, better = repairs.rounded(model, ranges, placements, int8)
        int8 |= better
    if repairs and "bias" in repairs.wanted:
        for family, placement in placements.items():
            models[family], int8[family] = repairs.bias_corrected(
                model, ranges, family, placement, int8[family], roundings.get(family, {})
            )
    if repairs:
        roundings, again = repairs.made_of_all(model, ranges, placements)
        models |= {family: source for family, (source, _) in again.items()}
        int8 |= {family: graph for family, (_, graph) in again.items()}
    # Half precision must hold every value that was seen, whatever the INT8 method cuts off.
    extremes = ranges_from_sketches(sketches, "minmax")
    source = Ranged(model, ranges, extremes)
    exported = source if found.before is None else _ranged(found.before, data, settings)
    float16 = float16_form(exported.model, exported.extremes)
    beside = forms_beside(source, models, placements, int8, exported)
    if settings.bf16:
        beside[BFLOAT16] = bfloat16_form(exported.model)
    return Quantized(
        sketches,
        ranges,
        int8,
        float16,
        every,
        model,
        beside,
        tuple(repairs.trials) if repairs else (),
        settings.weights,
        roundings,
        tuple(repairs.untried) if repairs else (),
        exported,
    )


def _ranged(found: Measured, data: CalibrationData | None, settings: QuantizationSettings) -> Ranged:
    from calibration.placement.place import place
    from calibration.ranges import ranges_from_sketches

    placements = [place(found.model, resolved_family(family)) for family in settings.families]
    ranges = _ranges(found.model, found.sketches, placements, data, settings)
    return Ranged(found.model, ranges, ranges_from_sketches(found.sketches, "minmax"))


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
    source = Ranged(result.measured, result.ranges, ranges_from_sketches(result.sketches, "minmax"))
    plain = dict.fromkeys(changed, result.measured)
    beside = forms_beside(source, plain, placements, int8, result.exported or source)
    return replace(
        result,
        placements={**result.placements, **placements},
        int8={**result.int8, **int8},
        beside_float16={**result.beside_float16, **beside},
    )
