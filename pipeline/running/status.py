"""What stands on disk for each stage, against what the recipe asks now; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.artifact import Artifacts
from pipeline.errors import IntegrityError, RecipeError
from pipeline.files.digest import UserFileDigests, sha256_of_value
from pipeline.files.manifest import read_manifest, verified_manifest
from pipeline.files.workspace import DIGESTS, Workspace
from pipeline.recipe import Recipe
from pipeline.running.key import changes, key_parts
from pipeline.running.selection import order_check
from pipeline.stage import Stage

State = Literal["fresh", "stale", "damaged", "missing", "unknown"]


@dataclass(frozen=True)
class StageStatus:
    """One stage's result."""

    stage: str
    state: State
    folder: Path
    why: tuple[str, ...] = ()
    seconds: float | None = None
    """Of the run that made it."""


def status(recipe: Recipe, workspace: Workspace) -> tuple[StageStatus, ...]:
    """For each stage whether its result is there, fits the recipe and is whole."""
    return tuple(_statuses(recipe, workspace))


def verified_artifacts(recipe: Recipe, workspace: Workspace) -> Artifacts:
    """Every artifact of a finished run; raises IntegrityError for a damaged one, RecipeError for one not yet made."""
    artifacts = Artifacts()
    for stage, found in zip(recipe.stages, status(recipe, workspace), strict=True):
        if found.state == "damaged":
            raise IntegrityError(found.why[0])
        if found.state != "fresh":
            why = "has not run" if found.state == "missing" else f"is stale ({'; '.join(found.why)})"
            raise RecipeError(f"{workspace.path}: stage {stage.name} {why}; `edgestill run` makes it")
        artifacts = artifacts.and_(stage.makes(found.folder))
    return artifacts


def _statuses(recipe: Recipe, workspace: Workspace) -> Iterator[StageStatus]:
    order_check(recipe.stages)
    digests = UserFileDigests(workspace.path / DIGESTS)
    made: dict[str, str] = {}
    broken: str | None = None
    for index, stage in enumerate(recipe.stages):
        if broken is not None:
            yield StageStatus(stage.name, "unknown", workspace.link(index, stage.name), (f"{broken} comes first",))
            continue
        inputs = {kind.__name__: made[kind.__name__] for kind in stage.needs}
        found, digest = _status(workspace, index, stage, key_parts(stage, recipe, inputs, digests))
        if digest is None:
            broken = stage.name
        else:
            made[stage.makes.__name__] = digest
        yield found


def _status(workspace: Workspace, index: int, stage: Stage, parts: dict[str, Any]) -> tuple[StageStatus, str | None]:
    """And the digest of its result, where that can be used."""
    key = sha256_of_value(parts)
    folder = workspace.folder(index, stage.name, key)
    if not folder.exists():
        why = _changes_since(workspace.link(index, stage.name), parts)
        return StageStatus(stage.name, "stale" if why else "missing", folder, why), None
    try:
        manifest = verified_manifest(folder, key)
    except IntegrityError as error:
        return StageStatus(stage.name, "damaged", folder, (str(error),)), None
    return StageStatus(stage.name, "fresh", folder, seconds=manifest.seconds), manifest.digest


def _changes_since(newest: Path, parts: dict[str, Any]) -> tuple[str, ...]:
    try:
        before = read_manifest(newest.resolve()).key_parts
    except IntegrityError:
        return ()
    return tuple(changes(before, parts))
