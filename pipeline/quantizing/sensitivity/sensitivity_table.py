"""What each layer costs, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.reporting.formats import MISSING

if TYPE_CHECKING:
    from rich.table import Table


LEGEND = (
    "of all: share of the network's multiply-adds; outside: share of the values that the layer reads which lie outside "
    "their range; own dB: SQNR of what the layer gives for float inputs; alone: SQNR of the output and change of the "
    f"metric with this layer alone in INT8; all but: with all in INT8 but it; {MISSING}: not judged"
)
"""What the columns are."""


def sensitivity_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """One for each family of a sensitivity document; layers that cost most come first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for family, found in document["families"].items():
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, title_justify="left")
        table.title = Text(f"{family}: each layer in INT8 ({document['judged_on']}, {document['samples']} samples)")
        table.add_column(Text("Layer"), overflow="fold", min_width=16)
        for title in ("of all", "outside", "own dB", "alone\ndB", "alone\npoints", "all but\ndB", "all but\npoints"):
            table.add_column(Text(title), justify="right")
        for layer in sorted(found["layers"], key=cost):
            table.add_row(*(Text(text) for text in _row(layer)))
        for group in found["groups"]:
            if group["only"] is not None:
                cells = (f"block {group['name']}", "", "", "", *_cells(group["only"]), *_cells(group["without"]))
                table.add_row(*(Text(text) for text in cells))
        yield table


def cost(layer: Mapping[str, Any]) -> tuple[bool, float]:
    """The layer that costs most first: by a whole graph where one was judged, else by its own result."""
    only = layer["only"]
    return only is None, layer["local_sqnr_db"] if only is None else only["sqnr_db"]


def _row(layer: Mapping[str, Any]) -> Iterator[str]:
    yield f"{layer['node']}{', spared' if layer['spared'] else ''}"
    yield f"{layer['share']:.1%}"
    yield f"{layer['saturation']:.3%}"
    yield f"{layer['local_sqnr_db']:.1f}"
    yield from _cells(layer["only"])
    yield from _cells(layer["without"])


def _cells(evaluation: Mapping[str, Any] | None) -> tuple[str, str]:
    """SQNR, and how the metric moves."""
    if evaluation is None:
        return MISSING, MISSING
    drop = evaluation["drop_points"]
    return f"{evaluation['sqnr_db']:.1f}", MISSING if drop is None else f"{-drop['value'] + 0.0:+.2f}"
