"""How the graphs of `edgestill quantize` and `edgestill sensitivity` are judged, as the command line asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifact import SENSITIVITY
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.errors import RecipeError
from pipeline.files import atomic
from pipeline.files.workspace import disk_errors_explained
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.inputs.graph_inputs import GraphInput
from pipeline.quantizing.judging.judging_inputs import JudgingFiles, judging_data, yardstick_of
from pipeline.quantizing.repairing.repair_metric import METRIC_SAMPLES, RepairJudge
from pipeline.quantizing.sensitivity.budget import Latencies, latencies_from_json
from pipeline.quantizing.sensitivity.mixed_precision import FamilyFound, Judging, notes
from pipeline.quantizing.settings import checked_repair

EVALUATIONS = "evaluations.json"


def latencies_of(request: QuantizeRequest) -> Mapping[str, Latencies]:
    """By family; none where no file was given."""
    if request.budget is None or request.budget.latencies is None:
        return {}
    return latencies_from_json(Path(request.budget.latencies), "--latencies", request.families)


def judging_of(request: QuantizeRequest, inputs: Mapping[str, GraphInput], batch_size: int) -> Judging | None:
    """How graphs are judged; None where nobody asked."""
    if request.budget is None and request.sensitivity == "off":
        return None
    data = judging_data(_files(request), inputs, batch_size)
    wanted = request.budget is not None and request.budget.max_drop is not None
    return Judging(
        data=data,
        yardstick=yardstick_of(request.model, data, request.threads, wanted),
        sensitivity=request.sensitivity,
        budget=request.budget,
        remembered=request.destination.path(EVALUATIONS),
        threads=request.threads,
        latencies=latencies_of(request),
    )


def repair_judge_of(
    request: QuantizeRequest,
    inputs: Mapping[str, GraphInput],
    batch_size: int,
    judging: Judging | None,
    progress: Progress,
    cancellation: Cancellation,
) -> RepairJudge | None:
    """By labels, where graphs are judged at all; else None. Raises RecipeError for data that nothing would use."""
    asked = request.validation is not None or request.labels is not None
    if not checked_repair(request.repair) or (judging is None and not asked):
        return None
    data = judging_data(_files(request), inputs, batch_size, METRIC_SAMPLES)
    if data.labels is None and judging is None:
        raise RecipeError(
            f"--validation {request.validation}: has no labels to judge repairs by; give them with --labels, "
            "or a budget with --max-drop or --min-sqnr"
        )
    yardstick = yardstick_of(request.model, data, request.threads, True) if judging is None else judging.yardstick
    if data.labels is None or yardstick is None:
        return None
    return RepairJudge(data, yardstick, request.threads, progress, cancellation)


def _files(request: QuantizeRequest) -> JudgingFiles:
    called = "validation data" if request.validation else "calibration data"
    return JudgingFiles(request.validation or request.data, request.preprocess, request.labels, called)


def judging_notes(request: QuantizeRequest, judging: Judging, found: Mapping[str, FamilyFound]) -> Iterator[str]:
    """By which metric and on what graphs were judged, and what was found."""
    metric = "output SQNR" if judging.yardstick is None else judging.yardstick.metric
    labelled = ", with labels" if judging.data.labels is not None else ""
    yield f"judged by {metric} on the {judging.data.samples} samples of the {judging.data.called}{labelled}"
    if request.validation is None:
        may = "may have been" if request.sketches else "were"
        yield f"the ranges {may} measured on the same samples: give others with --validation for a fair judgement"
    yield from notes(found, judging)


def write_sensitivity(request: QuantizeRequest, document: Mapping[str, Any]) -> Path:
    """Beside the graphs."""
    path = request.destination.path(SENSITIVITY)
    with disk_errors_explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, document)
    return path
