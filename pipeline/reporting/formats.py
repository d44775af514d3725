"""How numbers are written, the same way in every form of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.reporting.model import Estimate
from pipeline.reporting.result import EngineResult

MISSING = "–"


def significant(value: float, digits: int = 3) -> str:
    """`value` with that many significant digits and never an exponent: 0.0456, 12.3, 1230."""
    if value == 0:
        return "0"
    # Rounding first: 9.996 has one digit before the point, but its three-digit form 10.0 has two.
    exponent = int(f"{value:.{digits - 1}e}".rpartition("e")[2])
    decimals = max(0, digits - 1 - exponent)
    return f"{round(value, digits - 1 - exponent):.{decimals}f}"


def milliseconds(value: float | None) -> str:
    return MISSING if value is None else f"{significant(value)} ms"


def seconds(value: float | None) -> str:
    if value is None:
        return MISSING
    if value >= 60:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest:02d} s"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def bytes_(value: int | None) -> str:
    """Decimal units, as on the box of the flash chip."""
    if value is None:
        return MISSING
    return _with_unit(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), "B")


def count(value: int | None) -> str:
    """A number of parameters: 308 k, 2.76 M."""
    if value is None:
        return MISSING
    return _with_unit(value, (("G", 1e9), ("M", 1e6), ("k", 1e3)), "")


def _with_unit(value: int, units: tuple[tuple[str, float], ...], smallest: str) -> str:
    for unit, size in units:
        # 999,600 is 1.00 MB, not 1000 kB.
        if float(significant(value / size)) >= 1:
            return f"{significant(value / size)} {unit}"
    return f"{value} {smallest}".rstrip()


def percent(value: float | None) -> str:
    # Adding zero: what rounds to nothing has no sign.
    return MISSING if value is None else f"{round(value * 100, 2) + 0.0:.2f} %"


def percent_pair(value: float | None, limit: float) -> tuple[str, str]:
    """What was found and what was asked, as `gate_pair`: two different numbers look different."""
    found, asked = gate_pair("", None if value is None else value * 100, limit * 100)
    return MISSING if value is None else f"{found} %", f"{asked} %"


def percent_ticks(ticks: Sequence[float]) -> list[str]:
    """All with as many decimals as the finest one needs."""
    decimals = next((d for d in range(6) if all(abs(t * 100 - round(t * 100, d)) < 1e-7 for t in ticks)), 6)
    return [f"{tick * 100 + 0.0:.{decimals}f} %" for tick in ticks]


def loss(value: float) -> str:
    """Three digits; with an exponent where they would stand far from the point."""
    return significant(value) if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.2e}"


def heading(words: str) -> str:
    """With a capital first letter and no other one changed: `Mean IoU`."""
    return words[:1].upper() + words[1:]


def percent_interval(estimate: Estimate) -> str:
    return f"[{estimate.low * 100:.1f}, {estimate.high * 100:.1f}]"


def percent_estimate(estimate: Estimate | None) -> str:
    """Such as `97.50 % [95.3, 98.7]`."""
    return MISSING if estimate is None else f"{percent(estimate.value)} {percent_interval(estimate)}"


def ratio_estimate(estimate: Estimate | None) -> str:
    """Such as `0.47 [0.45, 0.49]`."""
    return MISSING if estimate is None else f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def precision(name: str) -> str:
    return name.upper()


def engine(result: EngineResult) -> str:
    """Such as `cpu INT8`."""
    return f"{result.target} {precision(result.precision)}"


def gate_pair(name: str, value: float | None, limit: float) -> tuple[str, str]:
    """What was found and what was asked, in the unit that the gate's name ends in.

    Digits are added until two different numbers look different: `0.99, at least 0.99 was asked` explains nothing.
    """
    unit, scale = _gate_unit(name)
    if value is None:
        return MISSING, plain(limit / scale, 4) + unit
    for digits in range(4, 18):
        found, asked = plain(value / scale, digits), plain(limit / scale, digits)
        if value == limit or found != asked:
            break
    return found + unit, asked + unit


def _gate_unit(name: str) -> tuple[str, float]:
    if name.endswith("_ms"):
        return " ms", 1
    if name.endswith("_bytes"):
        return " MB", 1e6
    return "", 1


def plain(value: float, digits: int) -> str:
    """Up to that many significant digits, without zeros at the end."""
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text
