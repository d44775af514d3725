"""A bar where a person watches, a line every 30 seconds in a log, nothing when quiet."""

from __future__ import annotations

import io

import pytest

from pipeline.process.progress import PlainProgress, Progress, QuietProgress, TerminalProgress, progress_for


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_log_gets_a_line_every_thirty_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, clock).phase("student", 10) as phase:
        for step in range(1, 8):
            clock.now_s = 10.0 * step
            phase.advance(1, f"loss {1 / step:.2f}")
    assert stream.getvalue() == "  student: 3/10  loss 0.33\n  student: 6/10  loss 0.17\n"


def test_work_that_counts_itself_never_goes_back() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, clock).phase("building", 100) as phase:
        for done in (40, 20, 60):
            clock.now_s += 30
            phase.reach(done)
    assert stream.getvalue() == "  building: 40/100\n  building: 40/100\n  building: 60/100\n"


def test_quiet_says_nothing_but_warnings() -> None:
    stream = io.StringIO()
    progress = QuietProgress(stream)
    progress.say("00 data")
    with progress.phase("reading", 3) as phase:
        phase.advance()
        phase.reach(3)
    assert stream.getvalue() == ""
    progress.warn("damaged")
    assert stream.getvalue() == "damaged\n"


def test_a_terminal_shows_a_bar_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    progress = TerminalProgress(stream)
    progress.say("02 distill [not markup]")
    with progress.phase("student", 4) as phase:
        phase.advance(1, "loss 0.5")
        phase.reach(4)
        phase.reach(2)
    shown = stream.getvalue()
    assert "02 distill [not markup]" in shown
    assert "4/4" in shown
    assert "loss 0.5" in shown


@pytest.mark.parametrize(
    ("stream", "ci", "quiet", "kind"),
    [
        (Terminal(), "", False, TerminalProgress),
        (Terminal(), "true", False, PlainProgress),
        (io.StringIO(), "", False, PlainProgress),
        (Terminal(), "", True, QuietProgress),
    ],
)
def test_who_watches_decides(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, ci: str, quiet: bool, kind: type[Progress]
) -> None:
    monkeypatch.setenv("CI", ci)
    assert isinstance(progress_for(stream, quiet), kind)


def test_no_color_draws_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with TerminalProgress(stream).phase("student", 2) as phase:
        phase.advance(2)
    assert "2/2" in stream.getvalue()
    assert "\x1b[3" not in stream.getvalue()
