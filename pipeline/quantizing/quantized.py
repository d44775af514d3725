"""What a calibration gives: the graphs that are built, what they rest on, and what a person must know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calibration.counting import counted
from pipeline.quantizing.calibration_notes import confidence_notes, images_notes, value_notes
from pipeline.quantizing.float_forms import Float16, Ranged
from pipeline.quantizing.repairing.repair_trial import Trial
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
PLACEMENT_SCHEMA_VERSION = 1
FLOAT16 = "fp16.onnx"
BFLOAT16 = "bf16.onnx"
# Below it the extremes of another sample of images would be visibly others.
FEW_IMAGES = 32


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
    untried_repairs: tuple[str, ...] = ()
    """Repairs that were asked for and are not for these families or samples, in words."""
    exported: Ranged | None = None
    """What FP16, BF16 and FP8 are made of: the graph before its channels were scaled or shifted for INT8."""

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
            few = f"ranges of {counted(self.sketches.images, 'image')} are shaky: a few hundred are usual"
            yield Finding(severity="warning", message=few)
        if self.sketches.origin is not None:
            yield from images_notes(self.sketches.origin, self.evidence.confidence)
        yield from confidence_notes(self.evidence, self.measured, modules or {})
        yield from value_notes(self.sketches, self.measured, modules or {})

    def notes(self, modules: Mapping[str, str] | None = None) -> Iterator[str]:
        """What a person must know of it."""
        yield from (finding.message for finding in self.findings(modules))
        yield from (trial.in_words() for trial in self.repairs)
        yield from self.untried_repairs
        for family, placement in self.placements.items():
            if placement.speed is not None and not placement.is_float and placement.speed.products:
                yield f"{family}: {placement.speed.in_words()}"
        yield from self.missing_graphs().values()
        if kept := len(self.float16.kept_in_float32):
            yield f"fp16: {counted(kept, 'node')} left in FP32; {PLACEMENT} says why"
        if BFLOAT16 in self.beside_float16 and (kept := len(self.beside_float16[BFLOAT16].kept_in_float32)):
            yield f"bf16: {counted(kept, 'node')} left in FP32; {PLACEMENT} says why"


def placement_document(quantized: Quantized) -> dict[str, Any]:
    """Per family, per node: quantized or not, and why; what stays FP32 beside FP16, and why a graph is missing.

    As placement.schema.json says.
    """
    placements = {family: placement.to_json() for family, placement in quantized.placements.items()}
    bfloat16 = quantized.beside_float16.get(BFLOAT16)
    return {
        "schema_version": PLACEMENT_SCHEMA_VERSION,
        **({} if bfloat16 is None else {"float32_in_bf16": dict(bfloat16.kept_in_float32)}),
        "families": placements,
        "repairs": [trial.to_json() for trial in quantized.repairs],
        "float32_in_fp16": dict(quantized.float16.kept_in_float32),
        "missing_graphs": quantized.missing_graphs(),
    }
