"""The plot of accuracy against latency, every point labelled where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from markupsafe import Markup

from pipeline.reporting.charts import element, marker, tone
from pipeline.reporting.formats import plain
from pipeline.reporting.model import Estimate
from pipeline.reporting.scale import Axis

HEIGHT_PX = 300
TOP_PX, BOTTOM_PX = 24, 252
NARROWEST_PX = 290.0
"""Width of the plot on a phone of 390 pixels: labels that are apart there are apart everywhere."""
CHARACTER_PX = 7.2
"""Mean width of a character of a direct label."""


@dataclass(frozen=True)
class Point:
    x: float
    label: str


@dataclass(frozen=True)
class Series:
    """The points of one engine, all at its accuracy."""

    shape: str
    accuracy: Estimate
    points: tuple[Point, ...]


def scatter(series: Sequence[Series], x_axis: Axis, y_axis: Axis, title: str, description: str) -> Markup:
    middle = sum(one.accuracy.value for one in series) / len(series)
    wishes = (
        Wish(x_axis.percent(p.x), _y(y_axis, one.accuracy.value), p.label, below=one.accuracy.value < middle)
        for one, p in _points(series)
    )
    baselines = iter(texts_apart(wishes, NARROWEST_PX))
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *_scales(x_axis, y_axis),
        *(_series(one, x_axis, y_axis) for one in series),
        *(_label(one, point, x_axis, next(baselines)) for one, point in _points(series)),
        class_="scatter",
        width="100%",
        height=HEIGHT_PX,
        role="img",
        aria_label=f"{title}. {description}",
    )


def y_scale(axis: Axis, labels: Sequence[str]) -> Markup:
    """The numbers left of the plot, in a drawing of their own: its width is fixed, the plot's is not."""
    texts = (
        element("text", label, x="100%", y=_y(axis, tick) + 4, text_anchor="end", class_="tick")
        for tick, label in zip(axis.ticks, labels, strict=True)
    )
    return element("svg", *texts, class_="scale", width=46, height=HEIGHT_PX, aria_hidden="true")


@dataclass(frozen=True)
class Wish:
    """Where a label would stand: its point in percent and pixels, and the side it likes better."""

    percent: float
    y: float
    text: str
    below: bool = False


def texts_apart(wishes: Iterable[Wish], width_px: float) -> list[float]:
    """A baseline for each label, so that none covers another on a plot that narrow."""
    taken: list[tuple[float, float, float]] = []
    for wish in wishes:
        left, right = _span(wish, width_px)
        baseline = next(wish.y + o for o in _offsets(wish.below) if not _covered(taken, left, right, wish.y + o))
        taken.append((left, right, baseline))
    return [baseline for _, _, baseline in taken]


def _span(wish: Wish, width_px: float) -> tuple[float, float]:
    """Where a label starts and ends, with a little air."""
    x, length, air = wish.percent / 100 * width_px, len(wish.text) * CHARACTER_PX, 3.0
    left = {"start": x, "middle": x - length / 2, "end": x - length}[_anchor(wish.percent)]
    return left - air, left + length + air


def _anchor(percent: float) -> str:
    """Labels near an edge of the plot grow away from it."""
    return "start" if percent < 20 else "end" if percent > 80 else "middle"


def _offsets(below: bool) -> Iterator[float]:
    """The nearest place on the better side, on the other one, the next nearest, …"""
    for ring in count():
        above, under = -12.0 - 15 * ring, 21.0 + 15 * ring
        yield from (under, above) if below else (above, under)


def _covered(taken: Sequence[tuple[float, float, float]], left: float, right: float, baseline: float) -> bool:
    return any(
        left < other_right and right > other_left and abs(baseline - at) < 14 for other_left, other_right, at in taken
    )


def _y(axis: Axis, value: float) -> float:
    return BOTTOM_PX - axis.percent(value) / 100 * (BOTTOM_PX - TOP_PX)


def _points(series: Sequence[Series]) -> Iterator[tuple[Series, Point]]:
    return ((one, point) for one in series for point in one.points)


def _scales(x_axis: Axis, y_axis: Axis) -> Iterator[Markup]:
    for tick in y_axis.ticks:
        yield element("line", x1=0, x2="100%", y1=_y(y_axis, tick), y2=_y(y_axis, tick), class_="grid")
    for tick in x_axis.ticks:
        x = f"{x_axis.percent(tick):.2f}%"
        yield element("line", x1=x, x2=x, y1=BOTTOM_PX + 8, y2=BOTTOM_PX + 13, class_="axis")
        yield element("text", plain(tick, 3), x=x, y=BOTTOM_PX + 27, text_anchor="middle", class_="tick")
    yield element("line", x1=0, x2="100%", y1=BOTTOM_PX + 8, y2=BOTTOM_PX + 8, class_="axis")
    caption = "median time per call, ms (logarithmic)"
    yield element("text", caption, x="100%", y=BOTTOM_PX + 45, text_anchor="end", class_="tick")


def _series(series: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    y, style = _y(y_axis, series.accuracy.value), f"interval {tone(series.shape)}"
    high, low = _y(y_axis, series.accuracy.high), _y(y_axis, series.accuracy.low)
    xs = [f"{x_axis.percent(point.x):.2f}%" for point in series.points]
    links = (element("line", x1=a, x2=b, y1=y, y2=y, class_=f"link {tone(series.shape)}") for a, b in pairwise(xs))
    whiskers = (element("line", x1=x, x2=x, y1=high, y2=low, class_=f"{style} faint") for x in xs)
    return Markup("").join((*links, *whiskers, *(marker(series.shape, x, y) for x in xs)))


def _label(series: Series, point: Point, x_axis: Axis, baseline: float) -> Markup:
    percent = x_axis.percent(point.x)
    style = f"direct {tone(series.shape)}"
    return element("text", point.label, x=f"{percent:.2f}%", y=baseline, text_anchor=_anchor(percent), class_=style)
