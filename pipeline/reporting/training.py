"""What the report shows of the trainings: their curves, the terms of the loss, and how the student was taught."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from markupsafe import Markup
from pydantic import JsonValue

from calibration.counting import counted
from pipeline.reporting import formats
from pipeline.reporting.lines import Line, epoch_axis, line_chart, line_scale
from pipeline.reporting.result import Curve, Distillation, LossTerm, Report
from pipeline.reporting.scale import Axis, linear_axis, metric_axis, sparse_logarithmic_axis
from pipeline.reporting.tables import Cell, Column, Table, flat

LOGARITHMIC_FROM = 20.0
"""Greatest over least loss from which a linear scale would hide the end of the training."""
COMBINATIONS = {"": "", "average": ", averaged", "confidence": ", weighted by confidence"}


@dataclass(frozen=True)
class Panel:
    title: str
    """Says in words what the chart shows."""
    scale: Markup
    plot: Markup


@dataclass(frozen=True)
class Training:
    title: str
    note: str
    panels: tuple[Panel, Panel]


def trainings(report: Report) -> tuple[Training, ...]:
    """One for each curve; all validation panels have the same scale, so that one network compares with another."""
    axis = _validation_axis(report.curves)
    return tuple(
        Training(
            formats.heading(curve.phase),
            f"{_epochs(curve)}, {'best' if len(curve.epochs) > 1 else 'kept'} after epoch {curve.best_epoch:g}",
            (_loss_panel(curve, report), _validation_panel(curve, report, axis)),
        )
        for curve in report.curves
    )


def _epochs(curve: Curve) -> str:
    return counted(len(curve.epochs), "epoch")


def _validation_axis(curves: tuple[Curve, ...]) -> Axis:
    """A network that knows nothing yet must not squeeze the rest: the first quarter of the epochs may start below."""
    settled = [value for curve in curves for value in curve.validation[len(curve.validation) // 4 :]]
    best = [_at_best(curve, curve.validation) for curve in curves]
    every = [value for curve in curves for value in curve.validation]
    return metric_axis([*settled, *best, *([max(every)] if every else [])], intervals=3)


def _loss_panel(curve: Curve, report: Report) -> Panel:
    low, high = min(curve.loss), max(curve.loss)
    logarithmic = low > 0 and high / low > LOGARITHMIC_FROM
    axis = sparse_logarithmic_axis(curve.loss) if logarithmic else linear_axis(curve.loss, intervals=3)
    title = f"Loss{' (logarithmic)' if logarithmic else ''}: {_course(curve)}"
    line = Line(curve.epochs, curve.loss)
    return _panel(title, curve, axis, [f"{tick:.4g}" for tick in axis.ticks], (line,), line, report)


def _course(curve: Curve) -> str:
    first, last = formats.loss(curve.loss[0]), formats.loss(curve.loss[-1])
    return first if len(curve.epochs) == 1 else f"{first} to {last}"


def _validation_panel(curve: Curve, report: Report, axis: Axis) -> Panel:
    title = f"Validation {report.metric}: {formats.percent(_at_best(curve, curve.validation))} at best"
    line = Line(curve.epochs, curve.validation)
    beside = tuple(Line(other.epochs, other.validation, faint=True) for other in _beside(curve, report))
    return _panel(title, curve, axis, formats.percent_ticks(axis.ticks), (*beside, line), line, report)


def _panel(
    title: str, curve: Curve, axis: Axis, labels: list[str], lines: tuple[Line, ...], line: Line, report: Report
) -> Panel:
    group = (curve, *_beside(curve, report))
    x_axis = epoch_axis(min(one.epochs[0] for one in group), max(one.epochs[-1] for one in group))
    marked = curve.best_epoch, _at_best(curve, line.ys)
    plot = line_chart(lines, x_axis, axis, marked, f"{curve.phase}: {title}", hollow=curve.phase == "baseline")
    return Panel(title, line_scale(axis, labels), plot)


def _beside(curve: Curve, report: Report) -> Iterator[Curve]:
    """The other trainings of the same kind: of teachers, or of students."""
    for other in report.curves:
        if other is not curve and _taught(other) == _taught(curve):
            yield other


def _taught(curve: Curve) -> bool:
    return not curve.phase.startswith("teacher")


def _at_best(curve: Curve, values: tuple[float, ...]) -> float:
    return values[curve.epochs.index(curve.best_epoch)]


def curves_table(report: Report) -> Table:
    """The curves in numbers, for forms of the report that draw nothing."""
    titles = ("Epochs", "Best epoch", f"Validation {report.metric}", "Loss, first epoch", "Loss, last epoch")
    columns = (Column("Training"), *(Column(title, True) for title in titles))
    rows = tuple(
        (
            Cell(formats.heading(curve.phase)),
            Cell(str(len(curve.epochs))),
            Cell(f"{curve.best_epoch:g}"),
            Cell(formats.percent(_at_best(curve, curve.validation))),
            Cell(formats.loss(curve.loss[0])),
            Cell(formats.loss(curve.loss[-1])),
        )
        for curve in report.curves
    )
    return Table("Trainings", columns, rows)


def loss_table(report: Report) -> Table:
    columns = (Column("Term"), Column("Formula"), Column("Weight", True), Column("Settings"))
    terms = report.distillation.terms if report.distillation else ()
    return Table("Loss", columns, tuple(_term_row(term) for term in terms))


def _term_row(term: LossTerm) -> tuple[Cell, ...]:
    settings = "; ".join(text for name, value in term.settings.items() for text in _setting(name, value))
    return (
        Cell(term.name),
        Cell(term.formula, note=term.paper),
        Cell(f"{term.weight:g}", note=term.schedule),
        Cell(settings or formats.MISSING),
    )


def _setting(name: str, value: JsonValue) -> Iterator[str]:
    if isinstance(value, list) and value and all(_is_pair(item) for item in value):
        yield f"{name} {', '.join(_pair(item) for item in value if isinstance(item, dict))}"
    elif isinstance(value, float):
        yield f"{name} {value:g}"
    else:
        yield from (f"{key} {text}" for key, text in flat(name, value))


def _is_pair(value: JsonValue) -> bool:
    return isinstance(value, dict) and value.keys() == {"student", "teacher"}


def _pair(layers: Mapping[str, JsonValue]) -> str:
    return f"{layers['student']} from {layers['teacher']}"


def loss_in_words(terms: tuple[LossTerm, ...]) -> str:
    """Such as `kd + 0.5 × hint`."""
    return " + ".join(term.name if term.weight == 1 else f"{term.weight:g} × {term.name}" for term in terms)


def distillation_table(report: Report) -> Table:
    rows = tuple((Cell(name), Cell(text)) for name, text in _facts(report.distillation) if text)
    return Table("Distillation", (Column("Setting"), Column("Value")), rows)


def _facts(taught: Distillation | None) -> Iterator[tuple[str, str]]:
    if taught is None:
        return
    ratio = taught.compression_ratio
    best = f", best after epoch {taught.best_epoch}" if taught.best_epoch else ""
    yield "Teachers", f"{taught.teachers}{COMBINATIONS[taught.combination]}" if taught.teachers > 1 else ""
    yield "Teacher outputs", taught.teacher_outputs
    yield "Optimizer", taught.optimizer
    yield "Epochs", f"{taught.epochs}{best}" if taught.epochs else ""
    yield "Also", " · ".join(taught.extras)
    yield "Teacher's parameters over the student's", formats.significant(ratio) if ratio else ""
