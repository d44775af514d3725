"""SIGINT and SIGTERM end a run at the next safe point, with everything finished so far kept."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from pipeline.errors import Cancelled

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STDERR = 2


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
        """The first signal asks; a second one ends the process at once, even within native code."""
        previous = {each: signal.getsignal(each) for each in SIGNALS}
        for each in SIGNALS:
            signal.signal(each, self._on_signal)
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        _say("\nedgestill: stopping after this step; once more to stop at once\n")


def _say(line: str) -> None:
    # Straight to the descriptor: a signal may come while Python's own stream is being written to.
    # A bar hides the cursor; where a second signal kills us, nobody else would show it again.
    shown = "\x1b[?25h" if os.isatty(STDERR) else ""
    with contextlib.suppress(OSError):
        os.write(STDERR, (shown + line).encode())
