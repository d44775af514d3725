"""A pass that is stopped on its way."""

from __future__ import annotations

from pipeline.errors import Cancelled
from pipeline.process.cancellation import Cancellation


class StopsAfter(Cancellation):
    """As a signal would, between two batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def check(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Cancelled(15)
