"""Which stages of a recipe a command asks for, and whether their order can work at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import RecipeError
from pipeline.names import nearest
from pipeline.recipe import Recipe
from pipeline.stage import Stage
from pipeline.stages import STAGES


@dataclass(frozen=True)
class Selection:
    """Which part of a recipe is asked for; names of stages."""

    first: str | None = None
    """Earlier stages must be there already."""
    last: str | None = None
    force: frozenset[str] = frozenset()
    """Run even where nothing changed."""


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
    given = [("--from", selection.first), ("--until", selection.last)]
    given += [("--force", name) for name in sorted(selection.force)]
    for option, name in given:
        if name is not None and name not in names:
            hint = nearest(name, names) or ";"
            raise RecipeError(f"{option} {name}: is no stage of the recipe{hint} choose from {', '.join(names)}")
    first = names.index(selection.first) if selection.first else 0
    last = names.index(selection.last) if selection.last else len(names) - 1
    if first > last:
        raise RecipeError(f"--from {selection.first} comes after --until {selection.last}; no stage is left to run")
    for name in sorted(selection.force):
        if not first <= names.index(name) <= last:
            raise RecipeError(f"--force {name} lies outside --from/--until; no such stage would run")
    return first, last + 1
