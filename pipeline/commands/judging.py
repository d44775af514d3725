"""How the graphs of `edgestill quantize` and `edgestill sensitivity` are judged, as the command line asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import atomic
from pipeline.artifact import SENSITIVITY
from pipeline.quantizing.budget import Latencies, latencies_from_json
from pipeline.quantizing.graph_inputs import GraphInput
from pipeline.quantizing.judging_inputs import JudgingFiles, judging_data, yardstick_of
from pipeline.quantizing.mixed_precision import FamilyFound, Judging, notes
from pipeline.workspace import disk_errors_explained

if TYPE_CHECKING:
    from pipeline.commands.quantize import QuantizeRequest

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
    called = "validation data" if request.validation else "calibration data"
    files = JudgingFiles(request.validation or request.data, request.preprocess, request.labels, called)
    data = judging_data(files, inputs, batch_size)
    wanted = request.budget is not None and request.budget.max_drop is not None
    return Judging(
        data=data,
        yardstick=yardstick_of(request.model, data, request.threads, wanted),
        sensitivity="worst" if request.sensitivity == "off" else request.sensitivity,
        budget=request.budget,
        remembered=request.destination.path(EVALUATIONS),
        threads=request.threads,
        latencies=latencies_of(request),
    )


def judging_notes(request: QuantizeRequest, judging: Judging, found: Mapping[str, FamilyFound]) -> Iterator[str]:
    """By which metric and on what graphs were judged, and what was found."""
    metric = "output SQNR" if judging.yardstick is None else judging.yardstick.metric
    labelled = ", with labels" if judging.data.labels is not None else ""
    yield f"judged by {metric} on the {judging.data.samples} samples of the {judging.data.called}{labelled}"
    if request.validation is None:
        yield "the ranges were measured on the same samples: give others with --validation for a fair judgement"
    yield from notes(found, judging)


def write_sensitivity(request: QuantizeRequest, document: Mapping[str, Any]) -> Path:
    """Beside the graphs."""
    path = request.destination.path(SENSITIVITY)
    with disk_errors_explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, document)
    return path
