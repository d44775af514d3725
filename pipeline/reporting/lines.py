"""Line charts over the epochs of a training, small enough to stand beside each other.

A line is one path in a drawing that is stretched to the width; its stroke is not, and text stands outside of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting.charts import element, marker
from pipeline.reporting.scale import Axis

HEIGHT_PX = 132
TOP_PX, BOTTOM_PX = 10, 106
SCALE_PX = 46
MOST_POINTS = 400
"""Of a line: more would only be drawn over each other."""
_WIDTH = 1000
_AIR_PX = 2


@dataclass(frozen=True)
class Line:
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    faint: bool = False


def epoch_axis(first: float, last: float) -> Axis:
    """From the first to the last epoch, with ticks at these two; a lone epoch stands in the middle."""
    if first == last:
        return Axis(first - 0.5, last + 0.5, (first,))
    return Axis(first, last, (first, last))


def line_chart(
    lines: Sequence[Line], x_axis: Axis, y_axis: Axis, marked: tuple[float, float], description: str, hollow: bool
) -> Markup:
    """The lines from left to right, one point of them marked; a value below the scale leaves the drawing."""
    x, y = marked
    return element(
        "svg",
        *_scales(x_axis, y_axis),
        _paths(lines, x_axis, y_axis),
        marker("fp32", f"{x_axis.percent(x):.2f}%", _y(y_axis, y), "best hollow" if hollow else "best"),
        class_="lines",
        width="100%",
        height=HEIGHT_PX,
        role="img",
        aria_label=description,
    )


def line_scale(axis: Axis, labels: Sequence[str]) -> Markup:
    """The numbers left of a chart, in a drawing of their own: its width is fixed, the chart's is not."""
    texts = (
        element("text", label, x="100%", y=_y(axis, tick) + 4, text_anchor="end", class_="tick")
        for tick, label in zip(axis.ticks, labels, strict=True)
    )
    return element("svg", *texts, class_="scale", width=SCALE_PX, height=HEIGHT_PX, aria_hidden="true")


def thinned(line: Line, most: int = MOST_POINTS) -> Iterator[tuple[float, float]]:
    """The points to draw: of many epochs on one pixel, the least and the greatest value, in their order."""
    points = list(zip(line.xs, line.ys, strict=True))
    if len(points) <= most:
        yield from points
        return
    buckets = most // 2
    for bucket in range(buckets):
        inside = points[bucket * len(points) // buckets : (bucket + 1) * len(points) // buckets]
        yield from sorted({min(inside, key=_value), max(inside, key=_value)})


def _value(point: tuple[float, float]) -> float:
    return point[1]


def _paths(lines: Sequence[Line], x_axis: Axis, y_axis: Axis) -> Markup:
    # The faint ones first, so that the line that the chart is about lies on top.
    paths = (_path(line, x_axis, y_axis) for line in sorted(lines, key=lambda line: not line.faint))
    top, height = TOP_PX - _AIR_PX, BOTTOM_PX - TOP_PX + 2 * _AIR_PX
    return element(
        "svg",
        *paths,
        y=top,
        width="100%",
        height=height,
        viewBox=f"0 {top} {_WIDTH} {height}",
        preserveAspectRatio="none",
    )


def _path(line: Line, x_axis: Axis, y_axis: Axis) -> Markup:
    places = " ".join(f"{x_axis.percent(x) / 100 * _WIDTH:.4g},{_y(y_axis, y):.1f}" for x, y in thinned(line))
    return element("polyline", points=places, class_="line faint" if line.faint else "line")


def _scales(x_axis: Axis, y_axis: Axis) -> Iterator[Markup]:
    for tick in y_axis.ticks:
        yield element("line", x1=0, x2="100%", y1=_y(y_axis, tick), y2=_y(y_axis, tick), class_="grid")
    anchors = ("middle",) if len(x_axis.ticks) == 1 else ("start", "end")
    for tick, anchor in zip(x_axis.ticks, anchors, strict=True):
        text = f"epoch {tick:g}" if anchor != "end" else f"{tick:g}"
        x = f"{x_axis.percent(tick):.2f}%"
        yield element("text", text, x=x, y=BOTTOM_PX + 20, text_anchor=anchor, class_="tick")


def _y(axis: Axis, value: float) -> float:
    # Far outside is as good as outside, and no coordinate grows without bound.
    return BOTTOM_PX - min(max(axis.share(value), -99.0), 99.0) * (BOTTOM_PX - TOP_PX)
