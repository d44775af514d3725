"""`edgestill quantize --sketches`: graphs from what `edgestill calibrate` measured, without data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.destination import destination_of
from pipeline.commands.earlier_files import EarlierFiles, removed_in_words
from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize import write_graphs
from pipeline.errors import RecipeError
from pipeline.quantizing.inputs.calibration_inputs import require_files
from pipeline.quantizing.quantization import quantized_from_sketches
from pipeline.quantizing.quantized import placement_document
from pipeline.quantizing.settings import (
    QuantizationSettings,
    checked_cache_versions,
    checked_families,
    checked_method,
    checked_weights,
)
from pipeline.quantizing.tensorrt_ranges import check_graph_beside_caches

if TYPE_CHECKING:
    from rich.console import Console

NO_REPAIR = "no repair was tried, since there are no data: some of them are enough, with --data beside --sketches"


@dataclass(frozen=True)
class SketchesRequest:
    """What the command line asked for."""

    model: Path
    sketches: tuple[Path, ...]
    """One file a shard."""
    families: tuple[str, ...]
    method: str
    out: Path | None
    cache_versions: tuple[str, ...] = ()
    weights: str = "max"
    bf16: bool = False


def quantize_sketches(request: SketchesRequest) -> Outcome:
    """Writes what `quantize` writes, less what needs data: no repair is tried and no graph judged."""
    try:
        settings = QuantizationSettings(
            checked_method(request.method),
            checked_families(request.families),
            cache_versions=checked_cache_versions(request.cache_versions),
            repair=(),
            weights=checked_weights(request.weights),
            bf16=request.bf16,
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    require_files(request.model, *request.sketches)
    check_graph_beside_caches(request.model, request.cache_versions)
    to = destination_of(request.model, request.out, request.families)
    result = quantized_from_sketches(request.model, request.sketches, settings)
    earlier = EarlierFiles.beside(to)
    files = write_graphs(result, to, settings, request.model)
    removed = earlier.remove((*files, request.model, *request.sketches), map(to.path, result.missing_graphs()))
    notes = [*result.notes(), NO_REPAIR]
    document = {
        "model": str(request.model),
        "images": result.sketches.images,
        "method": request.method,
        "files": [str(file) for file in files],
        "removed": [str(file) for file in removed],
        "notes": notes,
        "ranges": result.evidence.to_json(),
        "placement": placement_document(result),
    }

    def show(console: Console) -> None:
        for family, placement in result.placements.items():
            inside = f"{len(placement.quantized_nodes)} of {len(placement.decisions)} nodes in INT8"
            console.print(f"{family}: {inside}", markup=False)
        for line in (*notes, *removed_in_words(removed), *(f"wrote {file}" for file in files)):
            console.print(line, markup=False, soft_wrap=True)

    return Outcome(document, show)
