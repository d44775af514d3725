"""One seed feeds several streams of random numbers; each has a name, so that no two are the same."""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """The second word of a Philox key; the first is the recipe's seed."""

    AUGMENT = 1
    ORDER = 2
    SPLITS = 3
    RESAMPLES = 4
