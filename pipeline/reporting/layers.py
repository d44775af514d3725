"""What the report shows of each layer: its range, what it loses in INT8, and whether it was spared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from markupsafe import Markup

from calibration.counting import counted
from pipeline.reporting import charts, formats
from pipeline.reporting.charts import element
from pipeline.reporting.figures import Figure, Row
from pipeline.reporting.layers_result import FamilyLayers, LayerResult, PlacementResult, RepairResult
from pipeline.reporting.result import Report
from pipeline.reporting.scale import Axis, linear_axis
from pipeline.reporting.tables import Cell, Column, Table

MOST_ROWS = 24
HEIGHT_PX, TOP_PX, BOTTOM_PX, SCALE_PX = 190, 16, 140, 46


@dataclass(frozen=True)
class Curve:
    """SQNR of every placement that was tried against its share of INT8."""

    scale: Markup
    plot: Markup


def worst_first(family: FamilyLayers) -> list[LayerResult]:
    """By a whole graph where one was judged, else by the layer's own result."""

    def rank(layer: LayerResult) -> tuple[bool, float]:
        only = layer.alone_sqnr_db
        return only is None, layer.own_sqnr_db if only is None else only

    return sorted(family.layers, key=rank)


def left_out(family: FamilyLayers) -> str:
    """Such as `12 more layers stand in report.json.`; empty where the table holds all."""
    more = len(family.layers) - MOST_ROWS
    return f"{counted(more, 'more layer')} in report.json." if more > 0 else ""


def sentence(family: FamilyLayers) -> str:
    """The budget and what became of it; empty where there was none."""
    if family.met is None:
        return ""
    return f"Budget ({family.budget}) {'met' if family.met else 'not met'}: {family.outcome.rstrip('.')}."


def placed(family: FamilyLayers) -> str:
    """`82.0 % of the multiply-adds in INT8. Layers in float take an estimated 31.0 % of the time of all layers …`."""
    if family.int8_share is None:
        return ""
    share = f"{family.int8_share:.1%} of the multiply-adds in INT8."
    time = family.time_in_float
    if time is None:
        return share
    in_ms = f"{formats.significant(time.float_ms)} of {formats.significant(time.layers_ms)} ms"
    if time.basis == "measured":
        return f"{share} Layers in float take {time.share:.1%} of the measured time of all layers ({in_ms})."
    of_what = "one sample, one thread, from costs per operator, without Q, DQ and what stands between layers"
    return f"{share} Layers in float take an estimated {time.share:.1%} of the time of all layers ({in_ms}; {of_what})."


def repairs_table(report: Report) -> Table:
    """What each repair brought: output SQNR, the task's metric where there were labels, and what decided."""
    columns = (Column("Repair"), Column("For"), Column("SQNR", True), Column(report.metric, True), Column("Outcome"))
    return Table("Repairs", columns, tuple(_repair(each) for each in report.repairs))


def _repair(each: RepairResult) -> tuple[Cell, ...]:
    metric = each.metric
    note, moved = "", formats.MISSING
    if metric is not None:
        gain = metric.gain_points
        moved = f"{metric.before:.1%} → {metric.after:.1%}"
        taken = f"{gain.n}" if gain.n == metric.of_samples else f"{gain.n} of {metric.of_samples:,}"
        points_gained = f"{gain.value + 0.0:+.2f} points [{gain.low + 0.0:+.2f}, {gain.high + 0.0:+.2f}]"
        note = f"{points_gained}, {metric.judged_on}, {taken} samples"
    return (
        Cell(each.repair),
        Cell(each.family),
        Cell(f"{each.sqnr_db_before:.1f} → {each.sqnr_db_after:.1f} dB", note=f"{each.samples} calibration samples"),
        Cell(moved, note=note),
        Cell("kept" if each.kept else "left out", note=f"by {each.decided_by}"),
    )


def layers_figure(family: FamilyLayers) -> Figure:
    """One row a layer: a hollow mark for its own result, a full one for the output with it alone in INT8."""
    shown = worst_first(family)[:MOST_ROWS]
    values = [value for each in shown for value in (each.own_sqnr_db, each.alone_sqnr_db) if value is not None]
    axis = _with_air(linear_axis(values))
    rows = tuple(_row(layer, axis) for layer in shown)
    labels = charts.tick_labels(axis, [f"{tick:g} dB" for tick in axis.ticks])
    return Figure(f"SQNR of each layer for {family.family}", ("Layer", "SQNR", "Cost"), rows, labels)


def _row(layer: LayerResult, axis: Axis) -> Row:
    marks = [_mark(axis, layer.own_sqnr_db, "hollow")]
    if layer.alone_sqnr_db is not None:
        marks.append(_mark(axis, layer.alone_sqnr_db, ""))
    facts = [f"{layer.share:.1%} of multiply-adds", "spared" if layer.spared else ""]
    value = layer.own_sqnr_db if layer.alone_sqnr_db is None else layer.alone_sqnr_db
    return Row(
        _name(layer),
        " · ".join(fact for fact in facts if fact),
        charts.strip(charts.grid(axis), *marks),
        f"{value:.1f} dB",
        "" if layer.alone_drop_points is None else f"{points(layer.alone_drop_points)} points",
    )


def _mark(axis: Axis, value: float, style: str) -> Markup:
    return charts.marker("int8", f"{axis.percent(value):.2f}%", charts.STRIP_PX / 2, style)


def layers_table(family: FamilyLayers) -> Table:
    """Range and saturation of a layer's input, what it loses by itself, alone and left out, spared or not and why."""
    titles = ("Range", "Outside", "Own dB", "Alone dB", "Points", "All but it dB", "Points")
    columns = (Column("Layer"), *(Column(title, True) for title in titles), Column("In"))
    rows = tuple(_cells(layer) for layer in worst_first(family)[:MOST_ROWS])
    return Table(f"Layers, {family.family}", columns, rows)


def _cells(layer: LayerResult) -> tuple[Cell, ...]:
    return (
        Cell(_name(layer), note=layer.node if layer.module and layer.module != layer.node else ""),
        Cell(f"{formats.significant(layer.low)} … {formats.significant(layer.high)}", note=_looseness(layer)),
        Cell(f"{layer.saturation:.3%}"),
        Cell(f"{layer.own_sqnr_db:.1f}"),
        Cell(formats.MISSING if layer.alone_sqnr_db is None else f"{layer.alone_sqnr_db:.1f}"),
        Cell(points(layer.alone_drop_points)),
        Cell(formats.MISSING if layer.without_sqnr_db is None else f"{layer.without_sqnr_db:.1f}"),
        Cell(points(layer.without_drop_points)),
        Cell("float" if layer.spared else "INT8", note=layer.reason),
    )


def _looseness(layer: LayerResult) -> str:
    """Half of the wider interval of the range's ends over its amax; empty where there is none."""
    if layer.low_interval is None or layer.high_interval is None:
        return ""
    widest = max(layer.low_interval[1] - layer.low_interval[0], layer.high_interval[1] - layer.high_interval[0])
    amax = max(abs(layer.low), abs(layer.high))
    return f"±{widest / 2 / amax:.1%}" if amax else ""


def _name(layer: LayerResult) -> str:
    return layer.module or layer.node


def points(drop: float | None) -> str:
    """How the metric moves, in percentage points."""
    return formats.MISSING if drop is None else f"{-drop + 0.0:+.2f}"


def placements_table(family: FamilyLayers) -> Table:
    """Every placement that was tried, most INT8 first."""
    columns = (Column("INT8"), *(Column(t, True) for t in ("Spared", "SQNR", "Points")), Column("Budget"))
    rows = tuple(_placement(each) for each in _most_int8_first(family))
    return Table(f"Placements tried, {family.family}", columns, rows)


def _most_int8_first(family: FamilyLayers) -> list[PlacementResult]:
    return sorted(family.placements, key=lambda each: (not each.chosen, -each.int8_share))


def _placement(each: PlacementResult) -> tuple[Cell, ...]:
    drop = each.drop_points
    return (
        Cell(f"{each.int8_share:.1%}", note="chosen" if each.chosen else ""),
        Cell(str(each.spared)),
        Cell(f"{each.sqnr_db:.1f} dB"),
        Cell(points(None if drop is None else drop.value), note=_open(each)),
        Cell("within" if each.within else "beyond", state="passed" if each.within else "failed"),
    )


def _open(each: PlacementResult) -> str:
    """The interval of how the metric moves."""
    drop = each.drop_points
    return "" if drop is None else f"[{-drop.high + 0.0:.2f}, {-drop.low + 0.0:.2f}]"


def curve(family: FamilyLayers) -> Curve | None:
    """None where fewer than two placements were tried."""
    if len(family.placements) < 2:
        return None
    x_axis = _with_air(linear_axis([each.int8_share for each in family.placements], 0.0, 1.0))
    y_axis = linear_axis([each.sqnr_db for each in family.placements], intervals=3)
    plot = element(
        "svg",
        *_scales(x_axis, y_axis),
        *(_point(each, x_axis, y_axis) for each in sorted(family.placements, key=lambda each: each.chosen)),
        class_="trials-plot",
        width="100%",
        height=HEIGHT_PX,
        role="img",
        aria_label=f"Output SQNR against the share of multiply-adds in INT8. {sentence(family)}",
    )
    texts = (
        element("text", f"{tick:g} dB", x="100%", y=_y(y_axis, tick) + 4, text_anchor="end", class_="tick")
        for tick in y_axis.ticks
    )
    scale = element("svg", *texts, class_="scale", width=SCALE_PX, height=HEIGHT_PX, aria_hidden="true")
    return Curve(scale, plot)


def _with_air(axis: Axis) -> Axis:
    """Room for the marks of both ends."""
    air = 0.03 * (axis.high - axis.low)
    return replace(axis, low=axis.low - air, high=axis.high + air)


def _y(axis: Axis, value: float) -> float:
    return BOTTOM_PX - axis.percent(value) / 100 * (BOTTOM_PX - TOP_PX)


def _scales(x_axis: Axis, y_axis: Axis) -> Iterator[Markup]:
    for tick in y_axis.ticks:
        yield element("line", x1=0, x2="100%", y1=_y(y_axis, tick), y2=_y(y_axis, tick), class_="grid")
    for tick, label in zip(x_axis.ticks, formats.percent_ticks(x_axis.ticks), strict=True):
        percent = x_axis.percent(tick)
        anchor = "start" if percent < 5 else "end" if percent > 95 else "middle"
        yield element("text", label, x=f"{percent:.2f}%", y=BOTTOM_PX + 24, text_anchor=anchor, class_="tick")
    caption = "multiply-adds in INT8"
    yield element("text", caption, x="100%", y=BOTTOM_PX + 42, text_anchor="end", class_="tick")


def _point(each: PlacementResult, x_axis: Axis, y_axis: Axis) -> Markup:
    told = f"{each.int8_share:.1%} in INT8, {each.sqnr_db:.1f} dB, {'within' if each.within else 'beyond'}"
    path = element("path", d=charts.SHAPES["int8"], class_=f"mark int8{'' if each.within else ' hollow'}")
    ring = (element("circle", r=9, class_="ring"),) if each.chosen else ()
    x = f"{x_axis.percent(each.int8_share):.2f}%"
    return element("svg", element("title", told), *ring, path, x=x, y=_y(y_axis, each.sqnr_db), overflow="visible")


def families(report: Report) -> tuple[FamilyLayers, ...]:
    """Those that have layers to show."""
    return tuple(each for each in report.layers if each.layers)
