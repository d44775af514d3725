"""A user's own Python file, named in a recipe as `models.py:make_student`: loaded by path, never through sys.path."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import RecipeError


def split_specification(specification: str) -> tuple[str, str]:
    """('models.py', 'make_student'); raises ValueError with what is expected."""
    file, separator, function = specification.rpartition(":")
    if not separator or not file.endswith(".py") or not function.isidentifier():
        raise ValueError(f"'{specification}' is not of the form file.py:function, such as models.py:make_student")
    return file, function


def path_of(specification: str, recipe_folder: Path) -> Path:
    """Where a specification's file stands, be it there or not."""
    return recipe_folder / split_specification(specification)[0]


def user_file(specification: str, recipe_folder: Path, where: str) -> Path:
    """The file of a specification, relative to the recipe; raises RecipeError where it is not there."""
    path = path_of(specification, recipe_folder)
    if not path.is_file():
        raise RecipeError(f"{where} '{specification}': there is no file {path}; paths are relative to the recipe")
    return path


def call_factory(specification: str, recipe_folder: Path, where: str, options: Mapping[str, Any] | None = None) -> Any:
    """What the user's function returns; whatever it raises becomes a RecipeError that names file and line."""
    path = user_file(specification, recipe_folder, where)
    function = split_specification(specification)[1]
    module = _new_module(path)
    try:
        _execute(module, path)
        factory = getattr(module, function, None)
        if callable(factory):
            return factory(**(options or {}))
    except (Exception, SystemExit) as error:  # whatever the user's code raises is the user's to mend
        hint = "; this file is loaded alone: install what it imports, or put it in here"
        raise RecipeError(
            f"{where}: {specification} raised {type(error).__name__}: {error} ({line_in(error, path)})"
            f"{hint if isinstance(error, ImportError) else ''}"
        ) from error
    functions = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
    raise RecipeError(f"{where}: {path} has no function '{function}'; it has {', '.join(functions) or 'none'}")


def line_in(error: BaseException, path: Path) -> str:
    """`models.py line 3`: the innermost line of the file that an error went through."""
    trace, line = error.__traceback__, error.lineno if isinstance(error, SyntaxError) else None
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path.name} line {line}" if line else path.name


def _new_module(path: Path) -> ModuleType:
    name = f"_edgestill_user_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    module.__package__ = ""  # it stands alone: a relative import says so
    # Registered while it runs: dataclasses and pickling look their module up by name.
    sys.modules[name] = module
    return module


def _execute(module: ModuleType, path: Path) -> None:
    # Compiled here each time: a cached .pyc is trusted by its time in seconds, and an edit may be faster than that.
    loader = importlib.machinery.SourceFileLoader(module.__name__, str(path))
    exec(loader.source_to_code(path.read_bytes(), str(path)), module.__dict__)  # noqa: S102 what the user asked to run
