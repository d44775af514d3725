"""What the report shows of the search for a student that meets its target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from calibration.counting import counted
from pipeline.reporting import formats
from pipeline.reporting.charts import SHAPES, element
from pipeline.reporting.result import Report, Search, Trial
from pipeline.reporting.scale import Axis, metric_axis
from pipeline.reporting.tables import Cell, Column, Table

MOST_ROWS = 30
HEIGHT_PX = 176
TOP_PX, BOTTOM_PX = 18, 136
SCALE_PX = 46
MARKS = {"met": SHAPES["int8"], "complete": SHAPES["fp32"], "pruned": SHAPES["fp32"], "failed": "M-4,-4L4,4M4,-4L-4,4"}
BELOW = "M0,4L-5,-4L5,-4Z"
"""The mark of a trial whose value lies below the scale, where its number is not to be read."""


@dataclass(frozen=True)
class Trials:
    scale: Markup
    plot: Markup


def sentence(report: Report) -> str:
    """Whether the target was met, in one sentence; empty where nothing was searched."""
    search = report.search
    if search is None:
        return ""
    outcome = "was met" if search.met else "was not met"
    trials = counted(len(search.trials), "trial")
    best = f"{_best(search)} in {trials}" if search.best is None else f"{_best(search)} at best in {trials}"
    stopped = f"; stopped: {search.stopped.rstrip('.')}" if search.stopped else ""
    return f"Target: {_wanted(search, report.metric)} {outcome}, {best}{stopped}."


def _best(search: Search) -> str:
    return "no value" if search.best is None else formats.percent_pair(search.best, search.wanted)[0]


def _wanted(search: Search, metric: str) -> str:
    _, least = formats.percent_pair(search.best, search.wanted)
    asked = f" ({search.wanted_as})" if search.wanted_as and search.wanted_as != f"{search.wanted:g}" else ""
    return f"validation {metric} of at least {least}{asked}"


def search_table(report: Report) -> Table:
    rows = tuple((Cell(name), cell) for name, cell in _facts(report) if cell.text)
    return Table("Search", (Column("Setting"), Column("Value")), rows)


def _facts(report: Report) -> Iterator[tuple[str, Cell]]:
    search = report.search
    if search is None:
        return
    counts: Counter[str] = Counter(trial.state for trial in search.trials)
    states = ", ".join(f"{counts[state]} {state}" for state in MARKS if counts[state])
    state = "passed" if search.met else "failed"
    yield "Asked", Cell(formats.heading(_wanted(search, report.metric)))
    yield "Outcome", Cell("met" if search.met else "not met", state=state)
    yield "Best", Cell(_best(search))
    yield "Trials", Cell(f"{len(search.trials)}: {states}" if states else "0")
    yield "Budget", Cell(search.budget)
    yield "Stopped", Cell(search.stopped)


def trials_table(report: Report) -> Table:
    """The best trials, best first; `trials_left_out` counts the rest."""
    shown = _best_first(report.search.trials)[:MOST_ROWS] if report.search else []
    # By first appearance: not every trial need have every setting.
    names = tuple(dict.fromkeys(name for trial in shown for name in trial.settings))
    numbers = {name: all(not isinstance(trial.settings.get(name), str) for trial in shown) for name in names}
    titles = (Column(f"Validation {report.metric}", True), Column("Epochs", True))
    columns = (Column("Trial"), Column("State"), *titles, *(Column(name, numbers[name]) for name in names))
    return Table("Trials", columns, tuple(_trial_row(trial, names) for trial in shown))


def _best_first(trials: Sequence[Trial]) -> list[Trial]:
    def rank(trial: Trial) -> tuple[bool, bool, float, int]:
        return not trial.chosen, trial.validation is None, -(trial.validation or 0.0), trial.number

    return sorted(trials, key=rank)


def trials_left_out(report: Report) -> str:
    """Such as `12 more trials stand in report.json.`; empty where the table holds all."""
    more = len(report.search.trials) - MOST_ROWS if report.search else 0
    if more <= 0:
        return ""
    return f"{more} more {'trial stands' if more == 1 else 'trials stand'} in report.json."


def _trial_row(trial: Trial, names: tuple[str, ...]) -> tuple[Cell, ...]:
    return (
        Cell(str(trial.number), note="chosen" if trial.chosen else ""),
        Cell(trial.state, state=trial.state),
        Cell(formats.percent(trial.validation)),
        Cell(str(trial.epochs)),
        *(Cell(_setting(trial.settings.get(name))) for name in names),
    )


def _setting(value: float | str | None) -> str:
    if value is None:
        return formats.MISSING
    return value if isinstance(value, str) else f"{value:.4g}"


def trials_plot(report: Report) -> Trials | None:
    """None where there is no trial."""
    search = report.search
    if search is None or not search.trials:
        return None
    axis = _axis(search)
    last = max(trial.number for trial in search.trials)
    first = min(trial.number for trial in search.trials)
    x_axis = Axis(first - 0.5, last + 0.5, (first, last) if last > first else (first,))
    plot = element(
        "svg",
        *_scales(x_axis, axis),
        *_wanted_line(search, axis),
        *(_mark(trial, x_axis, axis) for trial in sorted(search.trials, key=lambda trial: trial.chosen)),
        class_="trials-plot",
        width="100%",
        height=HEIGHT_PX,
        role="img",
        aria_label=sentence(report),
    )
    return Trials(_y_scale(axis), plot)


def _axis(search: Search) -> Axis:
    """The better half of the trials, the chosen one and the target; what lies below is marked on the lower edge."""
    values = sorted((t.validation for t in search.trials if t.validation is not None), reverse=True)
    chosen = [t.validation for t in search.trials if t.chosen and t.validation is not None]
    return metric_axis([*values[: (len(values) + 1) // 2], *chosen, search.wanted], intervals=3)


def _y_scale(axis: Axis) -> Markup:
    texts = (
        element("text", label, x="100%", y=_y(axis, tick) + 4, text_anchor="end", class_="tick")
        for tick, label in zip(axis.ticks, formats.percent_ticks(axis.ticks), strict=True)
    )
    return element("svg", *texts, class_="scale", width=SCALE_PX, height=HEIGHT_PX, aria_hidden="true")


def _y(axis: Axis, value: float) -> float:
    return BOTTOM_PX - axis.percent(value) / 100 * (BOTTOM_PX - TOP_PX)


def _scales(x_axis: Axis, y_axis: Axis) -> Iterator[Markup]:
    for tick in y_axis.ticks:
        yield element("line", x1=0, x2="100%", y1=_y(y_axis, tick), y2=_y(y_axis, tick), class_="grid")
    for tick in x_axis.ticks:
        text = f"trial {tick:g}" if tick == x_axis.ticks[0] else f"{tick:g}"
        x, y = f"{x_axis.percent(tick):.2f}%", BOTTOM_PX + 28
        anchor = "start" if tick == x_axis.ticks[0] else "end"
        yield element("text", text, x=x, y=y, text_anchor=anchor, class_="tick")


def _wanted_line(search: Search, axis: Axis) -> Iterator[Markup]:
    y = _y(axis, search.wanted)
    yield element("line", x1=0, x2="100%", y1=y, y2=y, class_="wanted")
    text = f"asked: {formats.percent_pair(search.best, search.wanted)[1]}"
    yield element("text", text, x=0, y=y - 6, class_="direct wanted-label")


def _mark(trial: Trial, x_axis: Axis, axis: Axis) -> Markup:
    x, value = f"{x_axis.percent(trial.number):.2f}%", trial.validation
    below = value is not None and value < axis.low
    y = BOTTOM_PX + 10 if value is None or below else _y(axis, value)
    shapes = [element("path", d=BELOW if below else MARKS[trial.state], class_=f"mark trial-{trial.state}")]
    if trial.chosen:
        shapes.insert(0, element("circle", r=9, class_="ring"))
    told = f"trial {trial.number}, {trial.state}, {formats.percent(value)}"
    return element("svg", element("title", told), *shapes, x=x, y=y, overflow="visible")
