"""`edgestill calibrate RECIPE`: the statistics of a recipe's student over its calibration split, or a shard of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Artifacts, Graph, Splits
from pipeline.commands.calibrate import check_whole, shard_from_text, sketched, sketches_name
from pipeline.commands.outcome import Outcome
from pipeline.commands.run import workspace_of
from pipeline.data.dataset import open_dataset
from pipeline.errors import RecipeError
from pipeline.files.manifest import LOG
from pipeline.files.workspace import CACHE, Workspace
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.calibration_pass import Pass
from pipeline.recipe import Recipe, load_recipe
from pipeline.running import runner
from pipeline.running.recipe_context import recipe_context
from pipeline.running.selection import Selection
from pipeline.stages.calibrate import Calibrate
from pipeline.stages.export import Export


@dataclass(frozen=True)
class RecipeRequest:
    """What the command line asked for."""

    recipe: str
    shard: str
    """Such as 2/8."""
    out: Path | None
    workspace: Path | None


def calibrate_recipe(request: RecipeRequest, progress: Progress, cancellation: Cancellation) -> Outcome:
    """Runs what is stale up to `export`, then the pass, and writes a file that `[calibrate] sketches` takes up.

    Images, batches and threads are the recipe's. `<file>.partial` is there while the pass is unfinished.
    """
    shard, recipe = shard_from_text(request.shard), load_recipe(request.recipe)
    stage = recipe.stage(Calibrate.name)
    if not isinstance(stage, Calibrate):
        raise RecipeError(f"{request.recipe} has no [calibrate] section: add one, or give an ONNX file with --data")
    if stage.images == "auto":
        check_whole(shard, '[calibrate] images = "auto"')
    workspace = workspace_of(recipe, request.workspace)
    made = _made(recipe, workspace, progress, cancellation)
    path = workspace.path
    context = recipe_context(
        recipe, "calibrate", progress, cancellation, cache=path / CACHE, checkpoints=path, log=path / LOG
    )
    data = stage.data(open_dataset(made[Splits], context))
    until_tight = stage.method if stage.images == "auto" else None
    wanted = Pass(recipe.threads, shard, until_tight=until_tight, channels=stage.channel_extremes)
    file = request.out or Path(sketches_name(recipe.name, shard))
    return sketched(made[Graph].model, data, wanted, file, progress, cancellation)


def _made(recipe: Recipe, workspace: Workspace, progress: Progress, cancellation: Cancellation) -> Artifacts:
    """What the stages up to `export` make; those that are done are skipped."""
    runs = runner.run(recipe, workspace, progress, cancellation, Selection(last=Export.name))
    return Artifacts(stage.makes(run.folder) for stage, run in zip(recipe.stages, runs, strict=False))
