"""Runs what is stale and nothing else; resumes what was killed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.machine import this_machine
from pipeline.artifact import Artifact, Artifacts, Splits
from pipeline.context import Context
from pipeline.errors import IntegrityError, RecipeError
from pipeline.files.digest import UserFileDigests, sha256_of_value
from pipeline.files.manifest import LOG, MANIFEST, Manifest, outputs_of, verified_manifest
from pipeline.files.workspace import CACHE, CHECKPOINTS, DIGESTS, Workspace, disk_errors_explained
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.process.world import World
from pipeline.recipe import Recipe
from pipeline.running.crew import announce, dismiss
from pipeline.running.key import key_parts
from pipeline.running.recipe_context import recipe_context
from pipeline.running.selection import Selection, order_check, selected
from pipeline.running.stage_memory import StageMemory
from pipeline.stage import Stage
from pipeline.stages.training import TrainingStage
from pipeline.tracking.tracking import StageTracking, Tracking


@dataclass(frozen=True)
class StageRun:
    """What a run did with a stage."""

    stage: str
    ran: bool
    folder: Path
    seconds: float
    """Of the run that made the result."""
    damage: str | None = None
    """What was wrong with the result that was there, where it was rebuilt for that."""


def run(
    recipe: Recipe,
    workspace: Workspace,
    progress: Progress,
    cancellation: Cancellation,
    selection: Selection | None = None,
    world: World | None = None,
    tracking: Tracking | None = None,
) -> tuple[StageRun, ...]:
    """Runs the selected stages that are stale, in order. What was finished when it raises stays finished."""
    order_check(recipe.stages)
    selection = selection or Selection()
    first, end = selected(recipe, selection)
    for stage in recipe.stages[first:end]:
        stage.require()
    with workspace.lock(), disk_errors_explained(workspace.path):
        work = _Run(recipe, workspace, progress, cancellation, world or World(), tracking or Tracking())
        runs = work.stages(first, end, selection)
        dismiss(world or World())
        return runs


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        workspace: Workspace,
        progress: Progress,
        cancellation: Cancellation,
        world: World,
        tracking: Tracking,
    ) -> None:
        self._recipe, self._workspace, self._world, self._tracking = recipe, workspace, world, tracking
        self._progress, self._cancellation = progress, cancellation
        self._digests = UserFileDigests(workspace.path / DIGESTS)
        self._made: dict[str, str] = {}
        self._artifacts = Artifacts()
        self._end = len(recipe.stages)
        self._rehearsed = False

    def stages(self, first: int, end: int, selection: Selection) -> tuple[StageRun, ...]:
        runs = []
        self._end = end
        for index, stage in enumerate(self._recipe.stages[:end]):
            self._cancellation.check()
            asked = stage.name in selection.force
            runs.append(self._stage(index, stage, asked, None if index >= first else selection.first))
            self._digests.save()
        return tuple(runs)

    def _stage(self, index: int, stage: Stage, forced: bool, before: str | None) -> StageRun:
        """`before` is the stage of --from where this one comes earlier, and so may not run."""
        inputs = {kind.__name__: self._made[kind.__name__] for kind in stage.needs}
        parts = key_parts(stage, self._recipe, inputs, self._digests)
        key = sha256_of_value(parts)
        folder = self._workspace.folder(index, stage.name, key)
        manifest, damage = (None, None) if forced else self._found(folder, key)
        if manifest is None and not forced:
            manifest = self._finished(index, stage, folder, key)
        ran = manifest is None
        if manifest is None:
            if before is not None:
                raise RecipeError(
                    f"--from {before}: stage {stage.name} comes before it and is "
                    f"{'damaged' if damage else 'not done'}; run without --from"
                )
            manifest = self._work(index, stage, folder, key, parts)
        else:
            self._workspace.point(self._workspace.link(index, stage.name), folder)
            self._progress.say(f"{index:02d} {stage.name}: nothing changed, skipped")
        self._made[stage.makes.__name__] = manifest.digest
        self._artifacts = self._artifacts.and_(stage.makes(folder))
        self._track(stage, key, self._artifacts[stage.makes])
        return StageRun(stage.name, ran, folder, manifest.seconds, damage)

    def _found(self, folder: Path, key: str) -> tuple[Manifest | None, str | None]:
        """The manifest of a result that can be used, or what is wrong with the one that is there."""
        if not folder.exists():
            return None, None
        try:
            return verified_manifest(folder, key), None
        except IntegrityError as error:
            self._progress.warn(f"damaged, so it is not used: {error}")
            return None, str(error)

    def _finished(self, index: int, stage: Stage, folder: Path, key: str) -> Manifest | None:
        """A result that was whole when the run was killed, just before its commit: committed now."""
        partial = self._workspace.partial(folder)
        if not (partial / MANIFEST).is_file():
            return None
        try:
            manifest = verified_manifest(partial, key, besides=CHECKPOINTS)
        except IntegrityError:
            return None
        self._workspace.commit(partial, folder, self._workspace.link(index, stage.name))
        return manifest

    def _work(self, index: int, stage: Stage, folder: Path, key: str, parts: dict[str, Any]) -> Manifest:
        self._progress.say(f"{index:02d} {stage.name}")
        partial = self._workspace.begin(folder)
        context = replace(self._context(partial), tracking=self._tracking_of(stage, key))
        self._rehearse(index, context)
        if stage.collective:
            announce(self._world, index, self._artifacts.only(stage.needs), context)
        started_s = time.monotonic()
        with StageMemory() as memory:
            try:
                stage.run(self._artifacts.only(stage.needs), partial, context)
            except Exception:
                # Ctrl-C ends child processes too: what the stage then stumbles over is not its own failure.
                self._cancellation.check()
                raise
        outputs = outputs_of(partial)
        manifest = Manifest(
            stage=stage.name,
            key=key,
            key_parts=parts,
            outputs={path: outputs[path] for path in outputs if not path.startswith(f"{CHECKPOINTS}/")},
            seconds=round(time.monotonic() - started_s, 3),
            peak_memory_bytes=memory.peak_bytes,
            versions=parts["tools"],
            machine=this_machine().to_json(),
        )
        manifest.write(partial)
        self._workspace.commit(partial, folder, self._workspace.link(index, stage.name))
        self._progress.say(f"{index:02d} {stage.name}: done in {manifest.seconds:.1f} s")
        return manifest

    def _rehearse(self, index: int, context: Context) -> None:
        """Before the first stage that works on data: later ones say now what they would stumble over."""
        if self._rehearsed or Splits not in self._artifacts:
            return
        self._rehearsed = True
        for stage in self._recipe.stages[index : self._end]:
            stage.rehearse(self._artifacts, context)

    def _track(self, stage: Stage, key: str, made: Artifact) -> None:
        """Trackers get what they lack of a stage's trainings, whether it ran or was skipped."""
        if self._tracking.asked and isinstance(stage, TrainingStage):
            events = [json.loads(line) for line in made.path("events.jsonl").read_text("utf-8").splitlines()]
            for title, settings in stage.trained(made).items():
                of_it = [event for event in events if event["phase"] == title]
                self._tracking_of(stage, key).but(**settings).replay(title, of_it)

    def _tracking_of(self, stage: Stage, key: str) -> StageTracking:
        recipe = self._recipe
        settings = {"task": recipe.task_name, "seed": recipe.seed, "threads": recipe.threads}
        settings |= stage.model_dump(mode="json", exclude_none=True)
        return StageTracking(self._tracking, recipe.name, key, recipe.task.metric, settings)

    def _context(self, partial: Path) -> Context:
        return recipe_context(
            self._recipe,
            "run",
            self._progress,
            self._cancellation,
            cache=self._workspace.path / CACHE,
            checkpoints=partial / CHECKPOINTS,
            log=partial / LOG,
            world=self._world,
        )
