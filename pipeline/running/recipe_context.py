"""What a stage, or a command that reads a recipe's data, is told of the recipe."""

from __future__ import annotations

from pathlib import Path

from pipeline.context import Context
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.process.world import World
from pipeline.recipe import Recipe


def recipe_context(
    recipe: Recipe,
    command: str,
    progress: Progress,
    cancellation: Cancellation,
    *,
    cache: Path,
    checkpoints: Path,
    log: Path,
    world: World | None = None,
) -> Context:
    """For the work of `edgestill <command>`; the paths are explained at `Context`."""
    return Context(
        name=recipe.name,
        command=f"edgestill {command} {recipe.source}",
        task=recipe.task,
        seed=recipe.seed,
        threads=recipe.threads,
        recipe_folder=recipe.folder,
        progress=progress,
        cancellation=cancellation,
        cache=cache,
        checkpoints=checkpoints,
        log=log,
        world=world or World(),
    )
