"""`edgestill run`, and `edgestill report`, which shows a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.artifact import SENSITIVITY, TARGET, ReportFiles
from pipeline.commands.outcome import Outcome
from pipeline.errors import IntegrityError, NotAcceptable, RecipeError
from pipeline.files.workspace import Workspace
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.process.world import World, asked_world, joined
from pipeline.recipe import Recipe, load_recipe
from pipeline.reporting.result import Report
from pipeline.running import runner
from pipeline.running.crew import follow
from pipeline.running.selection import Selection
from pipeline.running.status import verified_artifacts
from pipeline.tracking import opened
from pipeline.tracking.tracking import Tracking

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = {"ship": 0, "do_not_ship": 1, "inconclusive": 8}


def workspace_of(recipe: Recipe, path: Path | None) -> Workspace:
    """Where a recipe's results stand: ./edgestill/<name> unless another folder is named."""
    return Workspace((path or Path("edgestill") / recipe.name).resolve())


def run(
    recipe_name: str,
    workspace_path: Path | None,
    selection: Selection,
    progress: Progress,
    cancellation: Cancellation,
    track: Sequence[str] = (),
) -> Outcome:
    """Runs what is stale; ends with the report where the run reached it. `track` names trackers, NAME=PLACE each."""
    recipe = load_recipe(recipe_name)
    with joined(asked_world()) as world:
        if not world.leads:
            follow(recipe, world, cancellation)
            return Outcome({}, lambda _: None, silent=True)
        tracking = opened(track, recipe.name, progress.warn)
        return _led(recipe, recipe_name, workspace_path, selection, progress, cancellation, world, tracking)


def _led(
    recipe: Recipe,
    recipe_name: str,
    workspace_path: Path | None,
    selection: Selection,
    progress: Progress,
    cancellation: Cancellation,
    world: World,
    tracking: Tracking,
) -> Outcome:
    workspace = workspace_of(recipe, workspace_path)
    runs = runner.run(recipe, workspace, progress, cancellation, selection, world, tracking)
    document = {
        "workspace": str(workspace.path),
        "stages": [{**asdict(each), "folder": str(each.folder)} for each in runs],
    }
    last = runs[-1]
    if last.stage != "report":
        return Outcome(document, lambda console: _show_end(console, runs), _exit_code_of(runs))
    return _reported(ReportFiles(last.folder), document, f"edgestill run {recipe_name}")


def report(recipe_name: str, workspace_path: Path | None) -> Outcome:
    """The report of a finished run; IntegrityError where anything that it rests on is damaged."""
    recipe = load_recipe(recipe_name)
    workspace = workspace_of(recipe, workspace_path)
    artifacts = verified_artifacts(recipe, workspace)
    if ReportFiles not in artifacts:
        raise RecipeError(f"{recipe_name} makes no report: add a [measure] section")
    document = {"workspace": str(workspace.path)}
    return _reported(artifacts[ReportFiles], document, f"edgestill run {recipe_name}")


def _reported(files: ReportFiles, document: Mapping[str, Any], command: str) -> Outcome:
    """`files` were verified just now: their digests say that the schema was held when they were written."""
    path, html = files.path("report.json"), files.path("report.html")
    try:
        found = Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path}: was written by another release; `{command} --force report`") from error

    def show(console: Console) -> None:
        from pipeline.reporting.terminal import summary_from_report

        console.print(summary_from_report(found, html))

    full = {**document, "command": command, "report": files.json("report.json"), "report_html": str(html)}
    return Outcome(full, show, _exit_code(found))


def _exit_code(found: Report) -> int:
    # Without gates there is nothing to fail: the report says so, the run itself is done.
    return EXIT_CODES[found.verdict] if found.gates else 0


def _exit_code_of(runs: Sequence[runner.StageRun]) -> int:
    """Of a run that makes no report: a target or a budget that is not met is not acceptable all the same."""
    for each in runs:
        target = each.folder / TARGET
        if each.stage == "distill" and target.exists() and not json.loads(target.read_text("utf-8"))["met"]:
            return NotAcceptable.exit_code
        costs = each.folder / SENSITIVITY
        if each.stage == "calibrate" and costs.exists():
            families = json.loads(costs.read_text("utf-8"))["families"].values()
            if any(found["budget"] is not None and not found["budget"]["met"] for found in families):
                return NotAcceptable.exit_code
    return 0


def _show_end(console: Console, runs: Sequence[runner.StageRun]) -> None:
    last = runs[-1]
    console.print(f"done up to {last.stage}: {last.folder}", markup=False, soft_wrap=True)
