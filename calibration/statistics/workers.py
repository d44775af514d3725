"""Parts of batches measured on several threads, each into sketches of its own, which merge exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar, final

from calibration.statistics import Sketches
from calibration.statistics.seen import Seen, count

Part = TypeVar("Part")

_MOST_VALUES = 1 << 22
"""Held by a thread, to be counted together: 16 MB of them."""


@dataclass
class _Tally:
    """What a thread has seen of images of one group, and not handed over yet."""

    sketches: Sketches
    seen: list[Seen] = field(default_factory=list)
    """Not counted yet."""
    values: int = 0
    """That it holds."""
    first: int = 0
    """The number of one of the images."""

    def count(self) -> None:
        """Adds what was seen to the sketches."""
        count(self.seen, self.sketches)
        self.seen.clear()
        self.values = 0


@final
class Workers:
    """Threads that measure parts of a batch at the same time; the sum does not depend on who measured what."""

    def __init__(self, threads: int, empty: Callable[[], Sketches], before: Sketches | None, samples: int) -> None:
        """`before` is added to what they measure; about so many samples will come."""
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._idle = deque(_Tally(empty()) for _ in range(threads))
        self._total = empty()
        self._adding = Lock()
        if before is not None:
            self._total.merge(before)
            self._total.origin = before.origin
        self._total.make_room(samples)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def measure(self, see: Callable[[Part], Seen], parts: Iterable[Part], stop: int) -> None:
        """Counts what `see` gives for each part and waits for all; raises what the first part that failed raised.

        The images of a part belong to one group. None has the number `stop` or a later one.
        """
        self._total.make_room(stop)

        def measure_one(part: Part) -> None:
            tally = self._idle.pop()
            try:
                self._add(tally, see(part))
            finally:
                self._idle.append(tally)

        for _ in map(measure_one, parts) if self._pool is None else self._pool.map(measure_one, parts):
            pass

    def merged(self) -> Sketches:
        """What all have measured so far; more is added to the same object."""
        for tally in self._idle:
            self._hand_over(tally)
        return self._total

    def _add(self, tally: _Tally, seen: Seen) -> None:
        if self._total.group_of(seen.first) != self._total.group_of(tally.first):
            self._hand_over(tally)
        tally.first = seen.first
        tally.seen.append(seen)
        tally.values += seen.values
        if tally.values > _MOST_VALUES:
            tally.count()

    def _hand_over(self, tally: _Tally) -> None:
        tally.count()
        if tally.sketches.images:
            with self._adding:
                self._total.merge_group(tally.sketches, tally.first)
            tally.sketches.clear()
