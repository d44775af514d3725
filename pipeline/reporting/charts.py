"""Small SVG drawings for the HTML report.

No viewBox around text: places are percentages of the width and pixels of the height, so text and strokes keep their
size from a phone to a wall. Colours are CSS classes, so that drawings follow light and dark with the page.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.reporting.formats import milliseconds
from pipeline.reporting.model import Estimate
from pipeline.reporting.result import Latency
from pipeline.reporting.scale import Axis

STRIP_PX = 24
LABEL_PX = 12
SHAPES = {  # colour is never the only carrier of a precision
    "fp32": "M-5,0A5,5 0 1 0 5,0A5,5 0 1 0 -5,0Z",
    "fp16": "M0,-6L5.5,4.5L-5.5,4.5Z",
    "int8": "M0,-6L6,0L0,6L-6,0Z",
    "other": "M-4.5,-4.5H4.5V4.5H-4.5Z",
}


def tone(precision: str) -> str:
    """The CSS class and the marker shape of a precision."""
    return precision if precision in SHAPES else "other"


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An SVG element; text that is not Markup is escaped, `class_` is class and `text_anchor` text-anchor."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(children))


def _attribute(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def _x(axis: Axis, value: float) -> str:
    return f"{axis.percent(value):.2f}%"


def marker(shape: str, x: str, y: float, class_: str = "") -> Markup:
    """A point's marker; a nested svg carries the percentage, which a path cannot."""
    path = element("path", d=SHAPES[tone(shape)], class_=f"mark {tone(shape)} {class_}".rstrip())
    return element("svg", path, x=x, y=y, overflow="visible")


def strip(*children: Markup, height: int = STRIP_PX) -> Markup:
    """One row's drawing; hidden from screen readers, since the row says the same in numbers."""
    return element("svg", *children, class_="strip", width="100%", height=height, aria_hidden="true")


def grid(axis: Axis, height: int = STRIP_PX) -> Markup:
    lines = (element("line", x1=_x(axis, t), x2=_x(axis, t), y1=0, y2=height, class_="grid") for t in axis.ticks)
    return Markup("").join(lines)


def tick_labels(axis: Axis, labels: Sequence[str]) -> Markup:
    """The scale below a column of strips."""
    texts = (
        element("text", label, x=_x(axis, tick), y=13, text_anchor="middle", class_="tick")
        for tick, label in zip(axis.ticks, labels, strict=True)
    )
    return strip(*texts, height=18)


def interval_strip(estimate: Estimate | None, axis: Axis, shape: str, hollow: bool = False) -> Markup:
    """A point on its confidence interval."""
    if estimate is None:
        return strip(grid(axis))
    middle, low, high = STRIP_PX / 2, _x(axis, estimate.low), _x(axis, estimate.high)
    style = f"interval {tone(shape)}"
    return strip(
        grid(axis),
        element("line", x1=low, x2=high, y1=middle, y2=middle, class_=style),
        element("line", x1=low, x2=low, y1=middle - 4, y2=middle + 4, class_=style),
        element("line", x1=high, x2=high, y1=middle - 4, y2=middle + 4, class_=style),
        marker(shape, _x(axis, estimate.value), middle, "hollow" if hollow else ""),
    )


def bar_strip(value: float, axis: Axis, shape: str, hollow: bool = False) -> Markup:
    """A bar from zero; hollow for what was built and not measured."""
    style = f"bar {tone(shape)} hollow" if hollow else f"bar {tone(shape)}"
    # Even the smallest bar is there to be seen.
    width = f"{max(axis.percent(value), 0.4):.2f}%"
    return strip(element("rect", x=0, y=5, width=width, height=STRIP_PX - 10, rx=1, class_=style))


def quantile_strip(latency: Latency, axis: Axis, shape: str) -> Markup:
    """One thin line for each quantile: where the calls crowd, the lines do; a taller line is the median.

    Below the lines, which may reach the end of the axis, stands how far those beyond it go.
    """
    beyond = [value for value in latency.quantiles_ms if value > axis.high]
    lines = (
        element("line", x1=_x(axis, value), x2=_x(axis, value), y1=6, y2=STRIP_PX - 6, class_=f"quantile {tone(shape)}")
        for value in latency.quantiles_ms
        if value <= axis.high
    )
    median = _x(axis, latency.p50_ms)
    drawn = [
        grid(axis),
        *lines,
        element("line", x1=median, x2=median, y1=1, y2=STRIP_PX - 1, class_=f"median {tone(shape)}"),
    ]
    if not beyond:
        return strip(*drawn)
    height = STRIP_PX + LABEL_PX
    text = f"up to {milliseconds(max(beyond))} →"
    return strip(*drawn, element("text", text, x="100%", y=height - 2, text_anchor="end"), height=height)
