"""SIGINT and SIGTERM end a run at the next safe point, with everything finished so far kept."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from pipeline.errors import Cancelled


class Cancellation:
    """Asked by long work between two steps. Signals never interrupt a step: native code may be running in it."""

    def __init__(self) -> None:
        self._signal: int | None = None

    @property
    def asked(self) -> bool:
        """True once a signal has come."""
        return self._signal is not None

    def check(self) -> None:
        """Raises Cancelled once a signal has come."""
        if self._signal is not None:
            raise Cancelled(self._signal)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """The first signal asks; a second one ends the process at once, as it would without us."""

        def on_signal(number: int, _: FrameType | None) -> None:
            self._signal = number
            for each, handler in previous.items():
                signal.signal(each, handler)

        previous = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        for each in previous:
            signal.signal(each, on_signal)
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)
