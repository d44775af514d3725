"""Names in a recipe: what they may look like, and the nearest right one to a wrong one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, TypeVar

from pydantic import AfterValidator

LONGEST_NAME = 64
# A name becomes a folder: no separator, no leading dot, no trailing newline.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Item = TypeVar("Item")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'entropy'?`, or nothing where no known name is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`method 'entropi' is unknown; did you mean 'entropy'? choose from entropy, minmax`."""
    names = sorted(known)
    hint = nearest(name, names) or ";"
    return f"{kind} '{name}' is unknown{hint} choose from {', '.join(names)}"


def checked_name(name: str) -> str:
    """The name; raises ValueError where no folder can have it."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{name[:LONGEST_NAME]!r} cannot name a folder; "
            f"write at most {LONGEST_NAME} letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return name


def checked_distinct(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """The items; raises ValueError where one stands twice."""
    for index, item in enumerate(items):
        if item in items[:index]:
            raise ValueError(f"{item!r} stands twice; write it once")
    return items


Name = Annotated[str, AfterValidator(checked_name)]
