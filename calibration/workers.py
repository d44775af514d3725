"""Parts of batches measured on several threads, each into sketches of its own, which merge exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, final

from calibration.statistics import Sketches

Part = TypeVar("Part")


@final
class Workers:
    """Threads that measure parts of a batch at the same time; the sum does not depend on who measured what."""

    def __init__(self, threads: int, empty: Callable[[], Sketches], before: Sketches | None = None) -> None:
        """`before` is added to what they measure."""
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._empty, self._before = empty, before
        self._idle = deque(empty() for _ in range(threads))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def measure(self, add: Callable[[Part, Sketches], None], parts: Iterable[Part]) -> None:
        """Calls `add` for each part and waits for all; raises what the first part that failed raised."""

        def measure_one(part: Part) -> None:
            sketches = self._idle.pop()
            try:
                add(part, sketches)
            finally:
                self._idle.append(sketches)

        for _ in map(measure_one, parts) if self._pool is None else self._pool.map(measure_one, parts):
            pass

    def merged(self) -> Sketches:
        """What all have measured so far."""
        total = self._empty()
        if self._before is not None:
            total.merge(self._before)
            total.origin = self._before.origin
        for sketches in self._idle:
            total.merge(sketches)
        return total
