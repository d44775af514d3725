"""`edgestill data check`: the samples, and what a teacher that the recipe brings makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.checking.data_checks import Examined, class_counts
from pipeline.commands.outcome import Outcome
from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.data.splits import SPLITS
from pipeline.errors import DataRejected, RecipeError
from pipeline.files.manifest import LOG
from pipeline.measuring.teacher_checks import TeacherScore, teacher_score
from pipeline.models.model import make_model
from pipeline.models.weights import load_weights
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.process.torch_state import set_up_torch
from pipeline.recipe import Recipe, load_recipe
from pipeline.reporting.result import Finding
from pipeline.running.recipe_context import recipe_context
from pipeline.stages.data import Data
from pipeline.stages.teacher import TrainTeacher, teacher_title
from pipeline.tasks.task import interface_of

if TYPE_CHECKING:
    from rich.console import Console

MOST_JUDGED = 2048
"""Training samples that a teacher is judged on here: enough to tell it from chance."""
STYLES = {"note": "", "warning": "yellow", "error": "bold red"}


def data_check(
    recipe_name: str, workspace_path: Path | None, progress: Progress, cancellation: Cancellation
) -> Outcome:
    """What a run would say of the data and of trained teachers before it trains, without writing anything.

    Exit 4 where it would refuse either.
    """
    del workspace_path  # every command takes one; this one reads the data alone
    recipe = load_recipe(recipe_name)
    stage = recipe.stage(Data.name)
    if not isinstance(stage, Data):
        raise RecipeError(f"{recipe_name} has no [data] section, so there is no data to check")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        context = recipe_context(
            recipe, "data check", progress, cancellation, cache=folder, checkpoints=folder, log=folder / LOG
        )
        try:
            examined, findings = stage.checked(context)
        except DataRejected as error:
            examined, findings = None, [Finding(severity="error", message=str(error))]
        rejected = any(finding.severity == "error" for finding in findings)
        scores = [] if examined is None or rejected else list(_teacher_scores(recipe, examined, context))
        findings += map(_finding, scores)
    document = {
        "recipe": recipe.source,
        "samples": None if examined is None else len(examined.records),
        "classes": None if examined is None else list(examined.samples.classes),
        "splits": None if examined is None else _splits(examined),
        "teachers": [score.to_json() for score in scores],
        "findings": [finding.model_dump() for finding in findings],
    }
    rejected = any(finding.severity == "error" for finding in findings)
    return Outcome(document, lambda console: _show(console, findings), DataRejected.exit_code if rejected else 0)


def _teacher_scores(recipe: Recipe, examined: Examined, context: Context) -> Iterator[TeacherScore]:
    """Of each teacher with weights, on up to MOST_JUDGED training samples spread over the split."""
    stage = recipe.stage(TrainTeacher.name)
    if not isinstance(stage, TrainTeacher) or all(each.weights is None for each in stage.teachers()):
        return
    set_up_torch(context)
    specs = tuple(each.spec for each in examined.statistics)
    interface = interface_of(context.task, specs, len(examined.samples.classes))
    dataset = Dataset(examined.samples, examined.records, interface, examined.preprocess, context.task.dense)
    train = dataset.indices("train")
    some = train[np.linspace(0, len(train) - 1, min(MOST_JUDGED, len(train))).astype(np.int64)]
    for index, each in enumerate(stage.teachers()):
        if each.weights is not None:
            network = make_model(each.model, interface, recipe.folder)
            load_weights(network, recipe.folder / each.weights)
            context.cancellation.check()
            yield teacher_score(network, dataset, some, context, teacher_title(index), trained_here=False)


def _finding(score: TeacherScore) -> Finding:
    if score.at_chance:
        return Finding(severity="error", message=score.rejected())
    return Finding(severity="note", message=score.in_words())


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
