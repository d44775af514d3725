"""Names that were probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

_DECORATION = re.compile(r":\d+$|[^0-9a-z]+")


def closest(name: str, known: Collection[str]) -> str | None:
    """The known name that differs in punctuation or case alone, else the most similar of those that only add a word at
    an end or take one away, else the most similar one; None where none is."""
    bare = _bare(name)
    alike = [other for other in known if _bare(other) == bare and bare]
    if len(alike) == 1:
        return alike[0]
    longer = [other for other in known if _adds_a_word(name, other) or _adds_a_word(other, name)]
    found = difflib.get_close_matches(name, longer, n=1, cutoff=0.0) or difflib.get_close_matches(name, known, 1, 0.75)
    return next(iter(found), None)


def renamed(name: str, names: Collection[str], candidates: Collection[str]) -> str | None:
    """What one of `names` is called among the candidates: the closest, unless that is closer to another of them."""
    likely = closest(name, candidates)
    return likely if likely is not None and closest(likely, names) == name else None


def _adds_a_word(name: str, other: str) -> bool:
    """Whether `other` is `relu_3_renamed` or `net/relu_3` of `relu_3`."""
    before, found, behind = other.partition(name) if other.startswith(name) else other.rpartition(name)
    return bool(found) and (not before or not behind) and not (before[-1:].isalnum() or behind[:1].isalnum())


def _bare(name: str) -> str:
    """`/layer1/0/Conv:0` and `layer1.0.conv` are one."""
    return _DECORATION.sub("", name.lower())
