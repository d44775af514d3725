"""`edgestill status`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.outcome import Outcome
from pipeline.commands.run import workspace_of
from pipeline.errors import IntegrityError
from pipeline.recipe import load_recipe
from pipeline.running.status import StageStatus
from pipeline.running.status import status as stage_statuses

if TYPE_CHECKING:
    from rich.console import Console

WORDS = {
    "fresh": "done",
    "stale": "stale",
    "missing": "not run yet",
    "damaged": "damaged",
    "unknown": "waits",
}


def status(recipe_name: str, workspace_path: Path | None) -> Outcome:
    """Each stage, and which parts of its key changed; exit 5 where an artifact is damaged."""
    recipe = load_recipe(recipe_name)
    workspace = workspace_of(recipe, workspace_path)
    stages = stage_statuses(recipe, workspace)
    document = {
        "workspace": str(workspace.path),
        "stages": [{**asdict(each), "folder": str(each.folder)} for each in stages],
    }
    damaged = any(each.state == "damaged" for each in stages)
    return Outcome(document, lambda console: _show(console, stages), IntegrityError.exit_code if damaged else 0)


def _show(console: Console, stages: tuple[StageStatus, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("stage", "state", "why", box=None, pad_edge=False)
    for index, each in enumerate(stages):
        done = f"in {each.seconds:.1f} s" if each.seconds is not None else ""
        # A path is never cut: it is what the reader copies.
        why = Text("\n".join(each.why) or done, overflow="fold")
        table.add_row(f"{index:02d} {each.stage}", WORDS[each.state], why)
    console.print(table)
