"""How the leader of a `torchrun` takes the other processes through a recipe: they join in what is trained, alone.

Everything else, the workspace's lock and every file in it, is the leader's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Artifact, Artifacts
from pipeline.context import Context
from pipeline.files.manifest import LOG
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.process.world import World
from pipeline.recipe import Recipe
from pipeline.running.recipe_context import recipe_context


@dataclass(frozen=True)
class Order:
    """Work on this stage, with these inputs."""

    stage: int
    inputs: Mapping[str, Path]
    """Folder by kind; the leader has verified them."""
    cache: Path
    checkpoints: Path


def announce(world: World, stage: int, inputs: Artifacts, context: Context) -> None:
    """The leader's: all others start on the stage that it is about to run."""
    if world.size > 1:
        folders = {kind.__name__: each.folder for kind, each in inputs.by_kind().items()}
        world.told(Order(stage, folders, context.cache, context.checkpoints))


def dismiss(world: World) -> None:
    """The leader's, when nothing more is to be trained; where a leader fails, torchrun ends the others."""
    if world.size > 1:
        world.told(None)


def follow(recipe: Recipe, world: World, cancellation: Cancellation) -> None:
    """All others': work on what the leader announces, write nothing that stays, until it dismisses them."""
    kinds: dict[str, type[Artifact]] = {kind.__name__: kind for stage in recipe.stages for kind in stage.needs}
    while True:
        order: Order | None = world.told(None)
        if order is None:
            return
        inputs = Artifacts(kinds[name](folder) for name, folder in order.inputs.items())
        with tempfile.TemporaryDirectory(prefix="edgestill-") as scratch:
            context = recipe_context(
                recipe,
                "run",
                QuietProgress(),
                cancellation,
                cache=order.cache,
                checkpoints=order.checkpoints,
                log=Path(scratch) / LOG,
                world=world,
            )
            recipe.stages[order.stage].run(inputs, Path(scratch), context)
