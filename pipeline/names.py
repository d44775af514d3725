"""A wrong name is answered with the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'entropy'?`, or nothing where no known name is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`method 'entropi' is unknown; did you mean 'entropy'? choose from entropy, minmax`."""
    names = sorted(known)
    hint = nearest(name, names) or ";"
    return f"{kind} '{name}' is unknown{hint} choose from {', '.join(names)}"
