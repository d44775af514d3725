"""What each layer costs, as the report shows it: read back from what the calibration wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.artifact import SENSITIVITY, Graphs
from pipeline.quantizing.quantized import PLACEMENT
from pipeline.quantizing.sensitivity.budget import Budget
from pipeline.reporting.layers_result import (
    FamilyLayers,
    FloatTimeResult,
    LayerResult,
    MetricChangeResult,
    PlacementResult,
    RepairResult,
)
from pipeline.reporting.model import Estimate
from pipeline.reporting.result import GateResult


def layers_of(graphs: Graphs) -> tuple[FamilyLayers, ...]:
    """Of each family; none where the calibration was not to look."""
    return tuple(_families(graphs)) if graphs.path(SENSITIVITY).exists() else ()


def budget_gates(graphs: Graphs) -> Iterator[GateResult]:
    """Each limit of a budget against each family's graph."""
    if not graphs.path(SENSITIVITY).exists():
        return
    document = graphs.json(SENSITIVITY)
    if document["budget"] is None:
        return
    budget = Budget.model_validate(document["budget"])
    for family, found in document["families"].items():
        chosen = found["budget"]["trials"][found["budget"]["chosen"]]
        yield from _gates(budget, f"{family} int8", chosen, found["budget"]["why"])


def _gates(budget: Budget, subject: str, chosen: Mapping[str, Any], why: str) -> Iterator[GateResult]:
    drop = chosen["drop_points"]
    if budget.max_drop is not None and drop is not None:
        value = drop["value"] if budget.decide_by == "estimate" else drop["high"]
        unsure = value <= budget.max_drop < drop["high"]
        yield GateResult(
            name="calibrate.max_drop",
            limit=budget.max_drop,
            sense="at most",
            value=value,
            state="passed" if value <= budget.max_drop else "failed",
            subject=subject,
            detail=why.rpartition("; ")[2] if unsure else "",
        )
    for name, limit, value in (
        ("calibrate.min_sqnr_db", budget.min_sqnr_db, chosen["sqnr_db"]),
        ("calibrate.min_int8_share", budget.min_int8_share, chosen["int8_share"]),
    ):
        if limit is not None:
            yield GateResult(
                name=name, limit=limit, value=value, state="passed" if value >= limit else "failed", subject=subject
            )


def _families(graphs: Graphs) -> Iterator[FamilyLayers]:
    document, tensors = graphs.json(SENSITIVITY), graphs.json("ranges.json")["tensors"]
    budget = document["budget"]
    for family, found in document["families"].items():
        chosen = found["budget"]
        yield FamilyLayers(
            family=family,
            judged_on=document["judged_on"],
            samples=document["samples"],
            layers=tuple(_layer(each, tensors[each["input"]]) for each in found["layers"]),
            budget="" if budget is None else Budget.model_validate(budget).in_words(document["metric"]),
            met=None if chosen is None else chosen["met"],
            outcome="" if chosen is None else chosen["why"],
            placements=() if chosen is None else tuple(_placements(chosen)),
            int8_share=found["placed"]["int8_share"],
            time_in_float=_time_in_float(found["placed"]["time_in_float"]),
        )


def repairs_of(graphs: Graphs) -> Iterator[RepairResult]:
    """What was tried on the graphs, in order."""
    for found in graphs.json(PLACEMENT)["repairs"]:
        yield RepairResult(
            repair=found["repair"],
            family=found["family"],
            samples=found["samples"],
            sqnr_db_before=found["sqnr_db"]["before"],
            sqnr_db_after=found["sqnr_db"]["after"],
            metric=_metric_change(found["metric"]),
            decided_by=found["decided_by"],
            kept=found["kept"],
        )


def _metric_change(found: Mapping[str, Any] | None) -> MetricChangeResult | None:
    if found is None:
        return None
    gain = Estimate(**found["gain_points"], n=found["samples"], confidence=found["confidence"])
    taken = {name: found[name] for name in ("judged_on", "of_samples", "before", "after")}
    return MetricChangeResult(metric=found["name"], gain_points=gain, **taken)


def _time_in_float(found: Mapping[str, Any] | None) -> FloatTimeResult | None:
    return None if found is None else FloatTimeResult(**found)


def _layer(found: Mapping[str, Any], range_of_input: Mapping[str, Any]) -> LayerResult:
    only, without = (found[name] or {"sqnr_db": None, "drop_points": None} for name in ("only", "without"))
    return LayerResult(
        node=found["node"],
        module="" if found["module"] == found["node"] else found["module"],
        share=found["share"],
        low=found["range"][0],
        high=found["range"][1],
        low_interval=range_of_input["low_interval"],
        high_interval=range_of_input["high_interval"],
        saturation=found["saturation"],
        own_sqnr_db=found["local_sqnr_db"],
        alone_sqnr_db=only["sqnr_db"],
        alone_drop_points=_value(only["drop_points"]),
        without_sqnr_db=without["sqnr_db"],
        without_drop_points=_value(without["drop_points"]),
        spared=found["spared"],
        reason=found["reason"],
    )


def _value(drop: Mapping[str, float] | None) -> float | None:
    return None if drop is None else drop["value"]


def _placements(chosen: Mapping[str, Any]) -> Iterator[PlacementResult]:
    for index, trial in enumerate(chosen["trials"]):
        drop = trial["drop_points"]
        yield PlacementResult(
            int8_share=trial["int8_share"],
            spared=len(trial["spared"]),
            sqnr_db=trial["sqnr_db"],
            drop_points=None if drop is None else Estimate(**drop),
            within=trial["within"],
            chosen=index == chosen["chosen"],
        )
