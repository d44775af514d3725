"""What a stage is given besides its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.process.world import World
from pipeline.tasks.task import Task
from pipeline.tracking.tracking import StageTracking


@dataclass(frozen=True)
class Context:
    """Where the work runs, for which task, and whom to tell."""

    name: str
    """Of the recipe."""
    command: str
    """That started the run."""
    task: Task
    seed: int
    threads: int
    recipe_folder: Path
    """What user files' paths are relative to."""
    progress: Progress
    cancellation: Cancellation
    cache: Path
    """For what costs much to compute and can be computed again; shared by all runs of a workspace."""
    checkpoints: Path
    """Kept when the stage is killed, removed when it is done."""
    log: Path
    """A text file that stays with the artifact."""

    world: World = field(default_factory=World)
    """The processes that train together."""
    tracking: StageTracking = field(default_factory=StageTracking)
    """Where the curves of trainings can be watched; the leader's alone has trackers."""

    def say(self, line: str) -> None:
        """A line for the person who watches and for the log."""
        if not self.world.leads:
            return
        self.progress.say(f"  {line}")
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
