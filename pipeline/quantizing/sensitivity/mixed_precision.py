"""After a calibration: what each layer costs in each family, and which layers stay in float so that a budget holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.counting import counted
from pipeline.errors import NotAcceptable
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.judging.evaluation import Evaluation, Remembered
from pipeline.quantizing.judging.yardstick import JudgingData, Yardstick
from pipeline.quantizing.quantization import with_placements
from pipeline.quantizing.quantization_errors import quantization_errors_explained
from pipeline.quantizing.quantized import Quantized
from pipeline.quantizing.sensitivity.budget import POINTS, Budget, Choice, Latencies, Trial, searched
from pipeline.quantizing.sensitivity.float_time import FloatTime, float_time
from pipeline.quantizing.sensitivity.layer_costs import (
    Judge,
    LayerCosts,
    Sensitivity,
    Spared,
    Subject,
    Unit,
    exact_costs,
    in_words,
    local_costs,
)
from pipeline.quantizing.settings import resolved_family

if TYPE_CHECKING:
    import onnx

    from calibration.layers import Layer
    from calibration.placement.place import Placement

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Judging:
    """How layers are judged, and on what."""

    data: JudgingData
    yardstick: Yardstick | None
    sensitivity: Sensitivity
    budget: Budget | None
    remembered: Path
    """The file in which evaluations are kept as they are found."""
    threads: int
    latencies: Mapping[str, Latencies] = field(default_factory=dict)
    """By family as it was asked for."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Source modules by node."""


@dataclass(frozen=True)
class FamilyFound:
    """What was found for one family."""

    subject: Subject
    costs: LayerCosts
    metric: str | None
    samples: int
    choice: Choice | None
    float_time: FloatTime | None = None
    """Of the placement that is kept, where times are known."""
    loses_biases: bool = False
    """Whether layers are spared and a bias correction was kept before, which is not made again."""

    @property
    def spared(self) -> Spared:
        """Layers that stay in float for the budget."""
        return frozenset() if self.choice is None else self.choice.chosen.spared

    @property
    def int8_share(self) -> float:
        """Of the multiply-adds, as the layers are placed."""
        return self.subject.share(self.spared)


def judged(
    result: Quantized, judging: Judging, progress: Progress, cancellation: Cancellation
) -> tuple[Quantized, dict[str, FamilyFound]]:
    """The calibration with the placements that the budget chose, and what was found in each family."""
    if judging.budget is not None:
        judging.budget.check(judging.data, judging.yardstick)
    found: dict[str, FamilyFound] = {}
    changed: dict[str, tuple[Placement, onnx.ModelProto]] = {}
    remembered = Remembered(judging.remembered)
    with quantization_errors_explained(judging.data.called):
        layers = _layers(result, judging)
        for family in result.int8:
            subject = _subject(result, family, layers)
            found[family] = _of_family(subject, judging, remembered, progress, cancellation)
            corrected = any(trial.kept for trial in result.repairs if (trial.repair, trial.family) == ("bias", family))
            found[family] = replace(found[family], loses_biases=corrected and bool(found[family].spared))
            if (choice := found[family].choice) is not None and choice.reasons:
                changed[family] = subject.quantized(choice.reasons)
        if changed:
            result = with_placements(result, changed)
    return result, found


def _layers(result: Quantized, judging: Judging) -> tuple[Layer, ...]:
    from calibration.layers import layers_of

    return layers_of(result.measured, next(judging.data.batches()), judging.modules)


def _subject(result: Quantized, family: str, layers: tuple[Layer, ...]) -> Subject:
    from calibration.placement.place import place
    from calibration.qdq import quantize

    def quantized(spared: Mapping[str, str]) -> tuple[Placement, onnx.ModelProto]:
        placement = place(result.measured, resolved_family(family), spared)
        roundings = result.roundings.get(family, {})
        return placement, quantize(
            result.measured, result.ranges, placement, weights=result.weights, roundings=roundings
        )

    as_calibrated = result.placements[family], result.int8[family]
    return Subject(family, result.measured, result.ranges, result.sketches, layers, quantized, as_calibrated)


def _of_family(
    subject: Subject, judging: Judging, remembered: Remembered, progress: Progress, cancellation: Cancellation
) -> FamilyFound:
    if not subject.candidates:
        raise NotAcceptable(f"family '{subject.family}' has no convolution or product in INT8: there is none to judge")
    costs = local_costs(subject, judging.data, judging.threads, progress, cancellation.check)
    judge = Judge(subject, judging.data, judging.yardstick, remembered, judging.threads, cancellation)
    choice = None
    if judging.budget is not None or judging.sensitivity in ("worst", "exact"):
        exact_costs(subject, judge, costs, judging.sensitivity, progress)
    if judging.budget is not None:
        latencies = judging.latencies.get(subject.family)
        choice = searched(subject, judge, costs, judging.budget, latencies, progress)
    spared = frozenset() if choice is None else choice.chosen.spared
    time = float_time(subject, spared, judging.latencies.get(subject.family))
    return FamilyFound(subject, costs, judge.metric, judging.data.samples, choice, time)


def notes(found: Mapping[str, FamilyFound], judging: Judging) -> Iterator[str]:
    """What a person must know of it, line by line."""
    yield from _float_notes(found, judging)
    for family, each in found.items():
        if each.costs.whole is not None:
            lost, samples = in_words(each.costs.whole, each.metric), counted(each.samples, "sample")
            yield f"{family}: all in INT8 gives {lost} ({samples})"
        if each.float_time is not None:
            yield f"{family}: {each.int8_share:.1%} of the multiply-adds in INT8; {each.float_time.in_words()}"
        if each.choice is None:
            continue
        spared = len(each.choice.chosen.spared)
        candidates = counted(len(each.subject.candidates), "layer")
        tried = f"{counted(len(each.choice.trials), 'placement')} tried, {spared} of {candidates} spared"
        yield f"{family}: budget {'met' if each.choice.met else 'NOT met'} ({tried}): {each.choice.why}"
        if each.loses_biases:
            yield f"{family}: no bias correction beside spared layers: it holds for the placement it was made of"
        if judging.latencies and family not in judging.latencies:
            yield f"{family}: no latencies were given for it, so the largest share in INT8 was looked for"


def _float_notes(found: Mapping[str, FamilyFound], judging: Judging) -> Iterator[str]:
    """How good FP32 is itself, once for all families: what is said of the graphs are changes."""
    own = next((value for each in found.values() if (value := _float_metric(each.costs.whole)) is not None), None)
    if own is None or judging.yardstick is None or judging.data.labels is None:
        return
    metric = judging.yardstick.metric
    yield f"FP32's own {metric}: {own:.1%} ({counted(judging.data.samples, 'sample')})"
    frequent = judging.yardstick.most_frequent(judging.data.labels)
    if frequent is not None and own <= frequent + 1e-12:
        yield (
            f"warning: to answer the most frequent label each time gives {frequent:.1%}, and FP32 is no better: are "
            "these the labels of this network, in the order of its classes? A loss of such a metric shows nothing"
        )


def sensitivity_document(found: Mapping[str, FamilyFound], judging: Judging) -> dict[str, Any]:
    """For sensitivity.json and --json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "metric": None if judging.yardstick is None else judging.yardstick.metric,
        "judged_on": judging.data.called,
        "samples": judging.data.samples,
        "budget": None if judging.budget is None else judging.budget.model_dump(mode="json", exclude={"latencies"}),
        "families": {family: _family(each) for family, each in found.items()},
    }


def _family(found: FamilyFound) -> dict[str, Any]:
    blocks = found.subject.blocks().items()
    return {
        "whole": _evaluation(found.costs.whole),
        "float_metric": _float_metric(found.costs.whole),
        "int8_share": found.subject.share(frozenset()),
        "placed": {
            "int8_share": found.int8_share,
            "time_in_float": None if found.float_time is None else found.float_time.to_json(),
        },
        "layers": [_layer(layer, found) for layer in found.subject.candidates],
        "groups": [{"name": name, "layers": list(unit), **_costs(unit, found.costs)} for name, unit in blocks],
        "budget": None if found.choice is None else _choice(found.choice),
    }


def _layer(layer: Layer, found: FamilyFound) -> dict[str, Any]:
    covered = found.subject.ranges.of(layer.input)
    reasons: Mapping[str, str] = {} if found.choice is None else found.choice.reasons
    return {
        "node": layer.node,
        "module": layer.path,
        "operator": layer.operator,
        "group": layer.group,
        "multiply_adds": layer.multiply_adds,
        "share": layer.multiply_adds / max(1, sum(each.multiply_adds for each in found.subject.layers)),
        "input": layer.input,
        "range": [covered.low, covered.high],
        "saturation": found.costs.saturation[layer.node],
        "local_sqnr_db": found.costs.local_sqnr_db[layer.node],
        **_costs((layer.node,), found.costs),
        "spared": layer.node in reasons,
        "reason": reasons.get(layer.node, ""),
    }


def _costs(unit: Unit, costs: LayerCosts) -> dict[str, Any]:
    return {"only": _evaluation(costs.only.get(unit)), "without": _evaluation(costs.without.get(unit))}


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "met": choice.met,
        "why": choice.why,
        "chosen": choice.trials.index(choice.chosen),
        "trials": [_trial(trial) for trial in choice.trials],
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "spared": sorted(trial.spared),
        "int8_share": trial.int8_share,
        "saved_ms": trial.saved_ms,
        "within": trial.within,
        **(_evaluation(trial.evaluation) or {}),
    }


def _evaluation(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """The drop in points."""
    if evaluation is None:
        return None
    drop = evaluation.drop
    points = (
        None if drop is None else {**asdict(drop), **{e: getattr(drop, e) * POINTS for e in ("value", "low", "high")}}
    )
    return {"sqnr_db": evaluation.sqnr_db, "metric": evaluation.metric, "drop_points": points}


def _float_metric(whole: Evaluation | None) -> float | None:
    if whole is None or whole.metric is None or whole.drop is None:
        return None
    return whole.metric + whole.drop.value
