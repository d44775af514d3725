"""A user's own Python file, named in a recipe as `models.py:make_student`: loaded by path, never through sys.path."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError


def split_specification(specification: str) -> tuple[str, str]:
    """('models.py', 'make_student'); raises ValueError with what is expected."""
    file, separator, function = specification.rpartition(":")
    if not separator or not file.endswith(".py") or not function.isidentifier():
        raise ValueError(f"'{specification}' is not of the form file.py:function, such as models.py:make_student")
    return file, function


def user_file(specification: str, recipe_folder: Path) -> Path:
    """The file of a specification, relative to the recipe; raises RecipeError where it is not there."""
    path = recipe_folder / split_specification(specification)[0]
    if not path.is_file():
        raise RecipeError(f"{specification}: there is no file {path}; paths are relative to the recipe")
    return path


def call_factory(specification: str, recipe_folder: Path, where: str, options: Mapping[str, Any] | None = None) -> Any:
    """What the user's function returns; whatever it raises becomes a RecipeError that names file and line."""
    path = user_file(specification, recipe_folder)
    function = split_specification(specification)[1]
    module_name = f"_edgestill_user_{path.stem}"
    loader = importlib.util.spec_from_file_location(module_name, path)
    if loader is None or loader.loader is None:
        raise RecipeError(f"{where}: {path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(loader)
    # Registered while it runs: dataclasses and pickling look their module up by name.
    sys.modules[module_name] = module
    try:
        loader.loader.exec_module(module)
        factory = getattr(module, function, None)
        if callable(factory):
            return factory(**(options or {}))
    except Exception as error:  # whatever the user's code raises is the user's to mend
        raise RecipeError(
            f"{where}: {specification} raised {type(error).__name__}: {error} ({_line(error, path)})"
        ) from error
    functions = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
    raise RecipeError(f"{where}: {path} has no function '{function}'; it has {', '.join(functions) or 'none'}")


def _line(error: Exception, path: Path) -> str:
    trace, line = error.__traceback__, getattr(error, "lineno", None)
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path.name} line {line}" if line else path.name
