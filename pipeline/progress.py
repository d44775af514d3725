"""Long work shows that it lives: a bar on a terminal, a plain line every 30 seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TextIO

PLAIN_INTERVAL_S = 30.0


class Phase(ABC):
    """One stretch of work of known length."""

    @abstractmethod
    def advance(self, steps: int = 1, figures: str = "") -> None:
        """`figures` is what a watcher wants to see now, such as `loss 0.41  validation 96.2 %`."""


class Progress(ABC):
    """Where work reports to."""

    @abstractmethod
    def say(self, line: str) -> None:
        """A line that stays."""

    @abstractmethod
    def phase(self, description: str, total: int) -> contextlib.AbstractContextManager[Phase]: ...


class QuietProgress(Progress):
    """Says nothing."""

    def say(self, line: str) -> None:
        del line

    @contextlib.contextmanager
    def phase(self, description: str, total: int) -> Iterator[Phase]:
        del description, total
        yield _QuietPhase()


class _QuietPhase(Phase):
    def advance(self, steps: int = 1, figures: str = "") -> None:
        del steps, figures


class PlainProgress(Progress):
    """For logs: lines only."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @contextlib.contextmanager
    def phase(self, description: str, total: int) -> Iterator[Phase]:
        yield _PlainPhase(self, description, total, self._clock)


class _PlainPhase(Phase):
    def __init__(self, progress: PlainProgress, description: str, total: int, clock: Callable[[], float]) -> None:
        self._progress, self._description, self._total, self._clock = progress, description, total, clock
        self._done = 0
        self._last_s = clock()

    def advance(self, steps: int = 1, figures: str = "") -> None:
        self._done += steps
        now_s = self._clock()
        if now_s - self._last_s >= PLAIN_INTERVAL_S:
            self._last_s = now_s
            self._progress.say(f"  {self._description}: {self._done}/{self._total}  {figures}".rstrip())


class TerminalProgress(Progress):
    """A bar with what is left, through rich."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    @contextlib.contextmanager
    def phase(self, description: str, total: int) -> Iterator[Phase]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        with Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(description, total=total, figures="")

            class Bar(Phase):
                def advance(self, steps: int = 1, figures: str = "") -> None:
                    bars.advance(task, steps)
                    if figures:
                        bars.update(task, figures=figures)

            yield Bar()


def progress_for(stream: TextIO | None = None, quiet: bool = False) -> Progress:
    """A bar where a person watches; `CI` and a pipe get plain lines; NO_COLOR is rich's to honour."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return QuietProgress()
    if stream.isatty() and not os.environ.get("CI"):
        return TerminalProgress(stream)
    return PlainProgress(stream)
