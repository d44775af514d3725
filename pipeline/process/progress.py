"""Long work shows that it lives: a bar on a terminal, a plain line every 30 seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

PLAIN_INTERVAL_S = 30.0


class Phase(ABC):
    """One stretch of work of known length."""

    @abstractmethod
    def advance(self, steps: int = 1, figures: str = "") -> None:
        """`figures` is what a watcher wants to see now, such as `loss 0.41  validation 96.2 %`."""

    @abstractmethod
    def reach(self, done: int, figures: str = "") -> None:
        """For work that counts its steps itself; never goes back."""


class Progress(ABC):
    """Where work reports to."""

    @abstractmethod
    def say(self, line: str) -> None:
        """A line that stays."""

    @abstractmethod
    def warn(self, line: str) -> None:
        """A line that stays, and that is said even when quiet."""

    @abstractmethod
    def phase(self, description: str, total: int) -> contextlib.AbstractContextManager[Phase]: ...


class QuietProgress(Progress):
    """Warns, and says nothing else."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def say(self, line: str) -> None:
        del line

    def warn(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)

    @contextlib.contextmanager
    def phase(self, description: str, total: int) -> Iterator[Phase]:
        del description, total
        yield _QuietPhase()


class _QuietPhase(Phase):
    def advance(self, steps: int = 1, figures: str = "") -> None:
        del steps, figures

    def reach(self, done: int, figures: str = "") -> None:
        del done, figures


class PlainProgress(Progress):
    """For logs: lines only."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def warn(self, line: str) -> None:
        self.say(line)

    @contextlib.contextmanager
    def phase(self, description: str, total: int) -> Iterator[Phase]:
        yield _PlainPhase(self, description, total, self._clock)


class _PlainPhase(Phase):
    def __init__(self, progress: PlainProgress, description: str, total: int, clock: Callable[[], float]) -> None:
        self._progress, self._description, self._total, self._clock = progress, description, total, clock
        self._done = 0
        self._last_s = clock()

    def advance(self, steps: int = 1, figures: str = "") -> None:
        self.reach(self._done + steps, figures)

    def reach(self, done: int, figures: str = "") -> None:
        self._done = max(done, self._done)
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
        self._console.print(line, markup=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        self.say(line)

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
            yield _BarPhase(bars, bars.add_task(description, total=total, figures=""))


class _BarPhase(Phase):
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task
        self._done, self._figures = 0, ""

    def advance(self, steps: int = 1, figures: str = "") -> None:
        self.reach(self._done + steps, figures)

    def reach(self, done: int, figures: str = "") -> None:
        self._done, self._figures = max(done, self._done), figures or self._figures
        self._bars.update(self._task, completed=self._done, figures=self._figures)


def progress_for(stream: TextIO | None = None, quiet: bool = False) -> Progress:
    """A bar where a person watches; `CI` and a pipe get plain lines; NO_COLOR is rich's to honour."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return QuietProgress(stream)
    if stream.isatty() and not os.environ.get("CI"):
        return TerminalProgress(stream)
    return PlainProgress(stream)
