"""`edgestill data check`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cancellation import Cancellation
from pipeline.context import Context
from pipeline.data_checks import Examined, class_counts
from pipeline.errors import DataRejected, RecipeError
from pipeline.outcome import Outcome
from pipeline.progress import Progress
from pipeline.recipe import Recipe, load_recipe
from pipeline.reporting.result import Finding
from pipeline.splits import SPLITS
from pipeline.stages.data import Data

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"note": "", "warning": "yellow", "error": "bold red"}


def data_check(
    recipe_name: str, workspace_path: Path | None, progress: Progress, cancellation: Cancellation
) -> Outcome:
    """What the data stage would say of a recipe's data, without writing anything; exit 4 where it would refuse it."""
    del workspace_path  # every command takes one; this one reads the data alone
    recipe = load_recipe(recipe_name)
    stage = recipe.stage(Data.name)
    if not isinstance(stage, Data):
        raise RecipeError(f"{recipe_name} has no [data] section, so there is no data to check")
    with tempfile.TemporaryDirectory() as folder:
        context = _context(recipe, progress, cancellation, Path(folder))
        try:
            examined, findings = stage.checked(context)
        except DataRejected as error:
            examined, findings = None, [Finding(severity="error", message=str(error))]
        # Of a teacher that the recipe brings, its accuracy on the training split is to be checked here.
    document = {
        "recipe": recipe.source,
        "samples": None if examined is None else len(examined.records),
        "classes": None if examined is None else list(examined.samples.classes),
        "splits": None if examined is None else _splits(examined),
        "findings": [finding.model_dump() for finding in findings],
    }
    rejected = any(finding.severity == "error" for finding in findings)
    return Outcome(document, lambda console: _show(console, findings), DataRejected.exit_code if rejected else 0)


def _context(recipe: Recipe, progress: Progress, cancellation: Cancellation, folder: Path) -> Context:
    return Context(
        name=recipe.name,
        command=f"edgestill data check {recipe.source}",
        task=recipe.task,
        seed=recipe.seed,
        threads=recipe.threads,
        recipe_folder=recipe.folder,
        progress=progress,
        cancellation=cancellation,
        cache=folder,
        checkpoints=folder,
        log=folder / "log.txt",
    )


def _splits(examined: Examined) -> dict[str, Any]:
    counts = class_counts(examined)
    return {
        name: {
            "samples": len(examined.indices(name)),
            "class_counts": counts[name].tolist() if counts else None,
        }
        for name in SPLITS
    }


def _show(console: Console, findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("finding", "what", box=None, pad_edge=False)
    for finding in findings:
        # An id is never cut: it is what the reader looks for.
        message = Text(finding.message, overflow="fold")
        table.add_row(Text(finding.severity, STYLES[finding.severity]), message)
    console.print(table)
