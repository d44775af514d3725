"""`edgestill quantize`: calibration of an ONNX file that no recipe made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.destination import Destination
from pipeline.commands.earlier_files import EarlierFiles, removed_in_words
from pipeline.commands.explain import explanation
from pipeline.commands.judging import judging_notes, judging_of, latencies_of, repair_judge_of, write_sensitivity
from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize_request import PARTIAL, QuantizeRequest
from pipeline.errors import NotAcceptable, RecipeError
from pipeline.files import atomic
from pipeline.files.onnx_file import write_graph
from pipeline.files.workspace import disk_errors_explained
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.inputs.calibration_images import images_from_text
from pipeline.quantizing.inputs.calibration_inputs import data_from, require_files
from pipeline.quantizing.inputs.graph_inputs import GraphInput, graph_inputs, size_of_batches
from pipeline.quantizing.quantization import quantized, quantized_from_sketches
from pipeline.quantizing.quantized import PLACEMENT, Quantized, placement_document
from pipeline.quantizing.sensitivity.mixed_precision import FamilyFound, judged, sensitivity_document
from pipeline.quantizing.settings import (
    MOVING_REPAIRS,
    CalibrationData,
    QuantizationSettings,
    Repair,
    check_repair_beside_caches,
    checked_cache_versions,
    checked_families,
    checked_method,
    checked_repair,
    checked_weights,
)
from pipeline.quantizing.tensorrt_ranges import check_graph_beside_caches, for_tensorrt

if TYPE_CHECKING:
    from rich.console import Console


def quantize(request: QuantizeRequest, progress: Progress, cancellation: Cancellation) -> Outcome:
    """Writes ranges.json, sketches.npz, placement.json, <family>.int8.onnx and, where there are such, fp16.onnx and,
    for TensorRT families, <family>.int8+fp16.onnx and <family>.fp8.onnx.

    For a TensorRT that takes ranges beside a float graph also fp32.onnx, its table of ranges and its caches. With a
    budget also sensitivity.json; exit 1 where no placement is within it, and the closest is written.
    """
    check(request)
    to = request.destination
    inputs = graph_inputs(request.model)
    check_graph_beside_caches(request.model, request.cache_versions)
    batch_size = size_of_batches(inputs, request.batch_size)
    judging = judging_of(request, inputs, batch_size)
    data = data_of(request, inputs, batch_size)
    partial = to.path(PARTIAL)
    judge = repair_judge_of(request, inputs, batch_size, judging, progress, cancellation)
    if request.sketches:
        result = quantized_from_sketches(request.model, request.sketches, request.settings, data, judge)
    else:
        result = quantized(request.model, data, request.settings, progress, cancellation, partial, judge=judge)
    found: Mapping[str, FamilyFound] = {}
    if judging is not None:
        result, found = judged(result, judging, progress, cancellation)
    earlier = EarlierFiles.beside(to)
    files = write_graphs(result, to, request.settings, request.model)
    partial.unlink(missing_ok=True)
    notes = [*result.notes()]
    if request.sketches:
        notes.append(
            f"the ranges are of the {result.sketches.images} images of --sketches; "
            f"all else saw the {data.samples} of {request.data}"
        )
    costs: dict[str, Any] = {}
    if judging is not None:
        notes += judging_notes(request, judging, found)
        costs = sensitivity_document(found, judging)
        files.append(write_sensitivity(request, costs))
    remembered = () if judging is None else (judging.remembered,)
    removed = earlier.remove((*files, *remembered, *request.files), map(to.path, result.missing_graphs()))
    document = {
        "model": str(request.model),
        "images": result.sketches.images,
        "batch_size": batch_size,
        "method": request.method,
        "files": [str(file) for file in files],
        "removed": [str(file) for file in removed],
        "notes": notes,
        "ranges": result.evidence.to_json(),
        "placement": placement_document(result),
        **({"sensitivity": costs} if costs else {}),
    }
    met = all(each.choice is None or each.choice.met for each in found.values())
    return Outcome(
        document,
        lambda console: _show(console, request, result, [*notes, *removed_in_words(removed)], files),
        0 if met else NotAcceptable.exit_code,
    )


def check(request: QuantizeRequest) -> None:
    """Raises RecipeError for what the command line alone shows to be wrong."""
    try:
        images_from_text(request.images)
        checked_method(request.method)
        checked_families(request.families)
        checked_weights(request.weights)
        checked_cache_versions(request.cache_versions)
        check_repair_beside_caches(checked_repair(request.repair), request.cache_versions)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    require_files(*request.files)
    if request.sketches:
        _refuse_a_second_pass(checked_repair(request.repair))
    judges = request.budget is not None or request.sensitivity != "off" or checked_repair(request.repair)
    if (request.validation or request.labels) and not judges:
        raise RecipeError("--validation and --labels judge graphs: give --max-drop, --min-sqnr or a repair with them")
    if request.budget is not None and request.budget.latencies is not None:
        latencies_of(request)


def _refuse_a_second_pass(repair: Sequence[Repair]) -> None:
    """Raises RecipeError for repairs that change what is measured: sketches are of the graph as it was."""
    moved = [each for each in repair if each in MOVING_REPAIRS]
    if moved:
        others = " ".join(f"--repair {each}" for each in repair if each not in moved)
        rest = f"write {others}" if others else "leave it out"
        raise RecipeError(
            f"repair '{moved[0]}' measures all data again, and --sketches are of the graph as it was: {rest}, "
            "or give all data with --data and no --sketches"
        )


def data_of(request: QuantizeRequest, inputs: Mapping[str, GraphInput], size: int) -> CalibrationData:
    """What the ranges are measured on, sketches aside, and repairs are made from."""
    return data_from(request.data, request.preprocess, inputs, size)


def write_graphs(result: Quantized, to: Destination, settings: QuantizationSettings, source: Path) -> list[Path]:
    """Sketches, ranges, placement, every graph and what a TensorRT takes beside one, each file whole or as it was.

    Raises NotAcceptable, and writes nothing, where a TensorRT could not take it.
    """
    beside = for_tensorrt(result.measured, result.ranges, settings, source)
    with disk_errors_explained(to.folder):
        to.folder.mkdir(parents=True, exist_ok=True)
        files = [to.path(name) for name in ("sketches.npz", "ranges.json", PLACEMENT)]
        with atomic.replacing(files[0]) as sketches, atomic.replacing(files[1]) as ranges:
            result.sketches.save(sketches)
            result.evidence.save(ranges)
        atomic.write_json(files[2], placement_document(result))
        for name, model in result.graphs().items():
            files += write_graph(to.path(name), model)
        return files if beside is None else files + beside.write(to.folder, f"{to.stem}.")


def _show(console: Console, request: QuantizeRequest, result: Quantized, notes: list[str], files: list[Path]) -> None:
    for family, placement in result.placements.items():
        if request.explain:
            console.print("\n".join(explanation(family, placement)), markup=False, soft_wrap=True)
            continue
        quantized_nodes = len(placement.quantized_nodes)
        console.print(f"{family}: {quantized_nodes} of {len(placement.decisions)} nodes in INT8", markup=False)
        for decision in placement.decisions:
            if not decision.quantized and decision.operator in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                console.print(f"  {decision.node} ({decision.operator}) in float: {decision.reason}", markup=False)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    for file in files:
        console.print(f"wrote {file}", markup=False, soft_wrap=True)
