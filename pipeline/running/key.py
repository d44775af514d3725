"""The key of a stage's result: a digest of everything that shapes it. Same key, same result, so nothing to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.files.digest import UserFileDigests
from pipeline.recipe import Recipe
from pipeline.stage import Stage

SHOWN_CHARACTERS = 40


def key_parts(stage: Stage, recipe: Recipe, inputs: Mapping[str, str], digests: UserFileDigests) -> dict[str, Any]:
    """Everything that shapes a stage's output, by name, as JSON values; `inputs` are digests of artifacts by kind."""
    return {
        "stage": stage.name,
        "stage_version": stage.version,
        "settings": stage.model_dump(mode="json"),
        "task": recipe.task_name,
        "inputs": dict(inputs),
        "seed": recipe.seed,
        "threads": recipe.threads,
        "files": digests.of_all({**recipe.task_files(), **stage.files(recipe.folder)}),
        "tools": {tool: _version(tool) for tool in (*stage.tools, *stage.more_tools())},
        "surroundings": dict(stage.surroundings()),
        **({"recipe": [recipe.name, recipe.source]} if stage.names_recipe else {}),
    }


def changes(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Each part that differs, such as `settings.epochs: 3 -> 30`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            yield from changes(before.get(name), now.get(name), f"{where}.{name}" if where else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from changes(old, new, f"{where}[{index}]")
    elif before != now:
        yield f"{where}: {_short(before)} -> {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:12] + "…"


@cache
def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
