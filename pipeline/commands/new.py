"""`edgestill new`."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.outcome import Outcome
from pipeline.errors import RecipeError
from pipeline.files import atomic
from pipeline.files.workspace import disk_errors_explained
from pipeline.names import LONGEST_NAME, checked_name, unknown
from pipeline.recipe import built_in_recipes


def new(path: Path, built_in: str) -> Outcome:
    """A copy of a built-in recipe under the file's own name; an existing file is left alone."""
    texts = built_in_recipes()
    if built_in not in texts:
        raise RecipeError(unknown("recipe", built_in, texts))
    if path.suffix != ".toml":
        raise RecipeError(f"{path}: a recipe ends in .toml")
    try:
        checked_name(path.stem)
    except ValueError as error:
        raise RecipeError(
            f"{path}: names the recipe too, so take letters, digits, '.', '_' and '-' alone, "
            f"at most {LONGEST_NAME}, the first a letter or digit"
        ) from error
    if path.exists():
        raise RecipeError(f"{path}: exists already; it was left as it is")
    if not path.parent.is_dir():
        raise RecipeError(f"{path}: there is no folder {path.parent}")
    text = texts[built_in].replace(f'name = "{built_in}"', f'name = "{path.stem}"', 1)
    with disk_errors_explained(path.parent):
        atomic.write_text(path, text)
    message = f"wrote {path}; change it, then: edgestill run {path}"
    document = {"recipe": str(path), "from": built_in}
    return Outcome(document, lambda console: console.print(message, markup=False, soft_wrap=True))
