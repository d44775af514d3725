"""Names that were probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

_DECORATION = re.compile(r":\d+$|[^0-9a-z]+")


def closest(name: str, known: Collection[str]) -> str | None:
    """The known name that differs in punctuation or case alone, else the most similar one; None where none is."""
    bare = _bare(name)
    alike = [other for other in known if _bare(other) == bare and bare]
    if len(alike) == 1:
        return alike[0]
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.75)), None)


def _bare(name: str) -> str:
    """`/layer1/0/Conv:0` and `layer1.0.conv` are one."""
    return _DECORATION.sub("", name.lower())
