"""Parts of batches measured on several threads, and counted into the same sketches, in whatever order."""

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
_MOST_RUNS = 16


@dataclass
class _Tally:
    """What a thread has seen of images of one group, and not counted yet."""

    seen: list[Seen] = field(default_factory=list)
    values: int = 0
    """That it holds."""


@final
class Workers:
    """Threads that measure parts of a batch at the same time; the sum does not depend on who measured what."""

    def __init__(self, threads: int, empty: Sketches, before: Sketches | None, samples: int) -> None:
        """What they measure is added to `empty` and `before`; about so many samples will come."""
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._idle = deque(_Tally() for _ in range(threads))
        self._total = empty
        self._locks = {name: Lock() for name in empty.tensors}
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
            self._count(tally)
        return self._total

    def _add(self, tally: _Tally, seen: Seen) -> None:
        if tally.seen and self._total.group_of(seen.first) != self._total.group_of(tally.seen[0].first):
            self._count(tally)
        tally.seen.append(seen)
        tally.values += seen.values
        if tally.values > _MOST_VALUES or len(tally.seen) == _MOST_RUNS:
            self._count(tally)

    def _count(self, tally: _Tally) -> None:
        if tally.seen:
            count(tally.seen, self._total, self._locks, self._total.group_of(tally.seen[0].first))
            with self._adding:
                self._total.images += sum(len(seen.images) for seen in tally.seen)
            tally.seen.clear()
            tally.values = 0
