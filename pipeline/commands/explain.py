"""`edgestill quantize --explain`: per node, quantized or not, the rule that says so and its source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.outcome import Outcome
from pipeline.errors import NotAcceptable, RecipeError
from pipeline.files.onnx_file import loaded_graph
from pipeline.quantizing.settings import checked_families, resolved_family

if TYPE_CHECKING:
    from calibration.placement.place import Placement


def explain(model: Path, families: tuple[str, ...]) -> Outcome:
    """The placement alone, which no data shapes; nothing is written."""
    from calibration.errors import GraphRefused
    from calibration.placement.place import place
    from calibration.prepare import prepared

    try:
        checked_families(families)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not model.is_file():
        raise RecipeError(f"{model}: there is no such file")
    try:
        graph = prepared(loaded_graph(model))
    except GraphRefused as error:
        raise NotAcceptable(f"{model.name}: {error}") from error
    placements = {family: place(graph, resolved_family(family)) for family in families}
    lines = [line for family, placement in placements.items() for line in explanation(family, placement)]
    document = {
        "model": str(model),
        "families": {family: placement.to_json() for family, placement in placements.items()},
    }
    return Outcome(document, lambda console: console.print("\n".join(lines), markup=False, soft_wrap=True))


def explanation(family: str, placement: Placement) -> Iterator[str]:
    """A line a node, in the order of the graph; then a line a rule that decided one."""
    yield f"{family}: {len(placement.quantized_nodes)} of {len(placement.decisions)} nodes in INT8"
    for decision in placement.decisions:
        kind = "int8 " if decision.quantized else "float"
        yield f"  {kind} {decision.node} ({decision.operator}): {decision.reason} [{decision.rule}]"
    for rule in placement.rules:
        yield f"  rule {rule.name}: {rule.pattern}; source: {rule.source} ({rule.versions})"
