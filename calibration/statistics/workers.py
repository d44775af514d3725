"""Parts of batches measured on several threads, each into sketches of its own, which merge exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, TypeVar, final

from calibration.statistics import Sketches


class Part(Protocol):
    """Images that run together, which belong to one group."""

    @property
    def first(self) -> int:
        """The number of its first image in all of the data."""


AnyPart = TypeVar("AnyPart", bound=Part)


@dataclass
class _Tally:
    """What a thread has counted of images of one group, and not handed over yet."""

    sketches: Sketches
    first: int = 0
    """The number of one of the images."""


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

    def measure(self, add: Callable[[AnyPart, Sketches], None], parts: Iterable[AnyPart], stop: int) -> None:
        """Calls `add` for each part and waits for all; raises what the first part that failed raised.

        No part has an image of the number `stop` or a later one.
        """
        self._total.make_room(stop)

        def measure_one(part: AnyPart) -> None:
            tally = self._idle.pop()
            try:
                if self._total.group_of(part.first) != self._total.group_of(tally.first):
                    self._hand_over(tally)
                tally.first = part.first
                add(part, tally.sketches)
            finally:
                self._idle.append(tally)

        for _ in map(measure_one, parts) if self._pool is None else self._pool.map(measure_one, parts):
            pass

    def merged(self) -> Sketches:
        """What all have measured so far; more is added to the same object."""
        for tally in self._idle:
            self._hand_over(tally)
        return self._total

    def _hand_over(self, tally: _Tally) -> None:
        if tally.sketches.images:
            with self._adding:
                self._total.merge_group(tally.sketches, tally.first)
            tally.sketches.clear()
