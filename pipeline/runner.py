"""Order check, cache key, resume: runs what is stale and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from engines.machine import this_machine
from pipeline.artifact import Artifacts
from pipeline.cancellation import Cancellation
from pipeline.context import Context
from pipeline.digest import UserFileDigests, sha256_of_value
from pipeline.errors import EdgestillError, IntegrityError, RecipeError
from pipeline.manifest import LOG, Manifest, outputs_of, read_manifest, verified_manifest
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.stage import Stage
from pipeline.stage_memory import StageMemory
from pipeline.stages import STAGES
from pipeline.workspace import CHECKPOINTS, Workspace, disk_errors_explained

State = Literal["fresh", "stale", "damaged", "missing", "unknown"]


@dataclass(frozen=True)
class Selection:
    """Which part of a recipe is asked for; names of stages."""

    first: str | None = None
    """Earlier stages must be there already."""
    last: str | None = None
    force: frozenset[str] = frozenset()
    """Run even where nothing changed."""


@dataclass(frozen=True)
class StageStatus:
    """What stands on disk for a stage, against what the recipe asks now."""

    stage: str
    state: State
    folder: Path
    why: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class StageRun:
    """What a run did with a stage."""

    stage: str
    ran: bool
    folder: Path
    seconds: float
    """Of the run that made the result."""


def order_check(stages: Sequence[Stage]) -> None:
    """Every stage needs only what an earlier one makes; raises RecipeError with what to add."""
    made: set[str] = set()
    for stage in stages:
        for kind in stage.needs:
            if kind.__name__ not in made:
                maker = next((each.name for each in STAGES if each.makes is kind), None)
                later = any(each.makes is kind for each in stages)
                mend = f"move [{maker}] before it" if later else f"add a [{maker}] section"
                raise RecipeError(f"[{stage.name}] needs {kind.__name__}, which [{maker}] makes: {mend}")
        made.add(stage.makes.__name__)


def selected(recipe: Recipe, selection: Selection) -> tuple[int, int]:
    """First and one past last index into the recipe's stages; raises RecipeError for names and orders that are not."""
    names = [stage.name for stage in recipe.stages]
    for name in (selection.first, selection.last, *sorted(selection.force)):
        if name is not None and name not in names:
            raise RecipeError(f"stage '{name}' is not in the recipe; its stages are {', '.join(names)}")
    first = names.index(selection.first) if selection.first else 0
    last = names.index(selection.last) if selection.last else len(names) - 1
    if first > last:
        raise RecipeError(f"--from {selection.first} comes after --until {selection.last}; no stage is left to run")
    for name in sorted(selection.force):
        if not first <= names.index(name) <= last:
            raise RecipeError(f"--force {name} lies outside --from/--until; no such stage would run")
    return first, last + 1


def key_parts(stage: Stage, recipe: Recipe, inputs: dict[str, str], digests: UserFileDigests) -> dict[str, Any]:
    """Everything that shapes a stage's output, by name, as JSON values."""
    return {
        "stage": stage.name,
        "stage_version": stage.version,
        "settings": stage.model_dump(mode="json"),
        "task": recipe.task.name,
        "inputs": inputs,
        "seed": recipe.seed,
        "threads": recipe.threads,
        "files": digests.of_all(stage.files(recipe.folder)),
        "tools": {tool: _version(tool) for tool in stage.tools},
        "surroundings": dict(stage.surroundings()),
    }


def status(recipe: Recipe, workspace: Workspace) -> tuple[StageStatus, ...]:
    """For each stage whether its result is there, fits the recipe and is whole; changes nothing."""
    return tuple(_statuses(recipe, workspace))


def _statuses(recipe: Recipe, workspace: Workspace) -> Iterator[StageStatus]:
    order_check(recipe.stages)
    digests = UserFileDigests(workspace.path / ".digests.json")
    made: dict[str, str] = {}
    broken: str | None = None
    for index, stage in enumerate(recipe.stages):
        if broken is not None:
            yield StageStatus(stage.name, "unknown", workspace.link(index, stage.name), (f"{broken} comes first",))
            continue
        parts = key_parts(stage, recipe, {kind.__name__: made[kind.__name__] for kind in stage.needs}, digests)
        folder = workspace.folder(index, stage.name, sha256_of_value(parts))
        if not folder.exists():
            broken = stage.name
            why = _differences(workspace.link(index, stage.name), parts)
            yield StageStatus(stage.name, "stale" if why else "missing", folder, why)
            continue
        try:
            manifest = verified_manifest(folder)
        except IntegrityError as error:
            broken = stage.name
            yield StageStatus(stage.name, "damaged", folder, (str(error),))
            continue
        made[stage.makes.__name__] = manifest.digest
        yield StageStatus(stage.name, "fresh", folder, seconds=manifest.seconds)


def verified_artifacts(recipe: Recipe, workspace: Workspace) -> Artifacts:
    """Every artifact of a finished run; raises IntegrityError for a damaged one, RecipeError for one not yet made."""
    artifacts = Artifacts()
    for stage, found in zip(recipe.stages, status(recipe, workspace), strict=True):
        if found.state == "damaged":
            raise IntegrityError(found.why[0])
        if found.state != "fresh":
            raise RecipeError(f"stage {stage.name} is {found.state}: `edgestill run` makes it")
        artifacts = artifacts.and_(stage.makes(found.folder))
    return artifacts


def run(
    recipe: Recipe,
    workspace: Workspace,
    progress: Progress,
    cancellation: Cancellation,
    selection: Selection | None = None,
) -> tuple[StageRun, ...]:
    """Runs the selected stages that are stale, in order. What was finished when it raises stays finished."""
    order_check(recipe.stages)
    selection = selection or Selection()
    first, end = selected(recipe, selection)
    for stage in recipe.stages[first:end]:
        stage.require()
    with workspace.lock():
        return _Run(recipe, workspace, progress, cancellation).stages(first, end, selection.force)


class _Run:
    def __init__(self, recipe: Recipe, workspace: Workspace, progress: Progress, cancellation: Cancellation) -> None:
        self._recipe, self._workspace = recipe, workspace
        self._progress, self._cancellation = progress, cancellation
        self._digests = UserFileDigests(workspace.path / ".digests.json")
        self._made: dict[str, str] = {}
        self._artifacts = Artifacts()

    def stages(self, first: int, end: int, force: frozenset[str]) -> tuple[StageRun, ...]:
        runs = []
        for index, stage in enumerate(self._recipe.stages[:end]):
            self._cancellation.check()
            runs.append(self._stage(index, stage, index >= first, stage.name in force))
            self._digests.save()
        return tuple(runs)

    def _stage(self, index: int, stage: Stage, may_run: bool, forced: bool) -> StageRun:
        inputs = {kind.__name__: self._made[kind.__name__] for kind in stage.needs}
        parts = key_parts(stage, self._recipe, inputs, self._digests)
        folder = self._workspace.folder(index, stage.name, sha256_of_value(parts))
        manifest = None if forced else self._usable(folder)
        ran = manifest is None
        if manifest is None:
            if not may_run:
                raise RecipeError(f"stage {stage.name} comes before --from and is not done; run it first")
            manifest = self._work(index, stage, folder, parts)
        else:
            self._workspace.point(self._workspace.link(index, stage.name), folder)
            self._progress.say(f"{index:02d} {stage.name}: nothing changed, skipped")
        self._made[stage.makes.__name__] = manifest.digest
        self._artifacts = self._artifacts.and_(stage.makes(folder))
        return StageRun(stage.name, ran, folder, manifest.seconds)

    def _usable(self, folder: Path) -> Manifest | None:
        if not folder.exists():
            return None
        try:
            return verified_manifest(folder)
        except IntegrityError as error:
            self._progress.say(f"damaged, rebuilding: {error}")
            return None

    def _work(self, index: int, stage: Stage, folder: Path, parts: dict[str, Any]) -> Manifest:
        self._progress.say(f"{index:02d} {stage.name}")
        with disk_errors_explained(self._workspace.path):
            partial = self._workspace.begin(folder)
            started_s = time.monotonic()
            with StageMemory() as memory:
                stage.run(self._artifacts.only(stage.needs), partial, self._context(partial))
            manifest = Manifest(
                stage=stage.name,
                key=sha256_of_value(parts),
                key_parts=parts,
                outputs={
                    path: output
                    for path, output in outputs_of(partial).items()
                    if not path.startswith(f"{CHECKPOINTS}/")
                },
                seconds=round(time.monotonic() - started_s, 3),
                peak_memory_bytes=memory.peak_bytes,
                versions=parts["tools"],
                machine=this_machine().to_json(),
            )
            manifest.write(partial)
            self._workspace.commit(partial, folder, self._workspace.link(index, stage.name))
        self._progress.say(f"{index:02d} {stage.name}: done in {manifest.seconds:.1f} s")
        return manifest

    def _context(self, partial: Path) -> Context:
        recipe = self._recipe
        return Context(
            name=recipe.name,
            task=recipe.task,
            seed=recipe.seed,
            threads=recipe.threads,
            recipe_folder=recipe.folder,
            progress=self._progress,
            cancellation=self._cancellation,
            checkpoints=partial / CHECKPOINTS,
            log=partial / LOG,
        )


def _differences(link: Path, parts: dict[str, Any]) -> tuple[str, ...]:
    """Which parts of the key changed since the newest result."""
    try:
        before = read_manifest(link.resolve()).key_parts
    except EdgestillError:
        return ()
    return tuple(_changes(before, parts, ""))


def _changes(before: Any, now: Any, where: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            yield from _changes(before.get(name), now.get(name), f"{where}.{name}" if where else name)
    elif before != now:
        yield f"{where}: {_short(before)} -> {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
