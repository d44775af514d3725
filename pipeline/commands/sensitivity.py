"""`edgestill sensitivity`: what each layer of an ONNX file costs in INT8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.commands.judging import judging_notes, judging_of, repair_judge_of, write_sensitivity
from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize import check, data_of
from pipeline.commands.quantize_request import PARTIAL, QuantizeRequest
from pipeline.errors import RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.inputs.graph_inputs import graph_inputs, size_of_batches
from pipeline.quantizing.quantization import quantized
from pipeline.quantizing.sensitivity.mixed_precision import judged, sensitivity_document

if TYPE_CHECKING:
    from rich.console import Console


def sensitivity(request: QuantizeRequest, progress: Progress, cancellation: Cancellation) -> Outcome:
    """Writes sensitivity.json; no graph is written."""
    check(request)
    inputs = graph_inputs(request.model)
    batch_size = size_of_batches(inputs, request.batch_size)
    judging = judging_of(request, inputs, batch_size)
    if judging is None:
        raise RecipeError("sensitivity 'off' judges nothing")
    data = data_of(request, inputs, batch_size)
    judge = repair_judge_of(request, inputs, batch_size, judging, progress, cancellation)
    partial = request.destination.path(PARTIAL)
    result = quantized(request.model, data, request.settings, progress, cancellation, partial, judge=judge)
    result, found = judged(result, judging, progress, cancellation)
    document = sensitivity_document(found, judging)
    file = write_sensitivity(request, document)
    partial.unlink(missing_ok=True)
    notes = [*result.notes(), *judging_notes(request, judging, found)]

    def show(console: Console) -> None:
        from pipeline.quantizing.sensitivity.sensitivity_table import LEGEND, sensitivity_tables

        for table in sensitivity_tables(document):
            console.print(table)
        console.print(LEGEND, markup=False, soft_wrap=True)
        for note in notes:
            console.print(note, markup=False, soft_wrap=True)
        console.print(f"wrote {file}", markup=False, soft_wrap=True)

    return Outcome({**document, "model": str(request.model), "file": str(file), "notes": notes}, show)
