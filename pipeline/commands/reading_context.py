"""What a command that reads a recipe's data is given in place of a stage."""

from __future__ import annotations

from pathlib import Path

from pipeline.context import Context
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.recipe import Recipe


def reading_context(
    recipe: Recipe, command: str, folder: Path, cache: Path, progress: Progress, cancellation: Cancellation
) -> Context:
    """For a command that reads a recipe's data and runs no stage; what is written for a while goes into `folder`."""
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
        checkpoints=folder,
        log=folder / "log.txt",
    )
