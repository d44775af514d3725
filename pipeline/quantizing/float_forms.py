"""A graph whose float part is in 16 bits, alone or beside INT8 and FP8, or why there is no such form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calibration.errors import CalibrationError

if TYPE_CHECKING:
    import onnx

    from calibration.placement.place import Placement
    from calibration.ranges import Ranges


@dataclass(frozen=True)
class Float16:
    """A graph whose float part is FP16 (or BF16), or why there is none."""

    model: onnx.ModelProto | None
    kept_in_float32: Mapping[str, str]
    """Nodes of it that stay FP32, each with its reason."""
    why_none: str | None = None


@dataclass(frozen=True)
class Ranged:
    """A graph with the ranges of its tensors."""

    model: onnx.ModelProto
    ranges: Ranges
    extremes: Ranges
    """The exact ones, method `minmax`."""


def float16_form(model: onnx.ModelProto, extremes: Ranges) -> Float16:
    from calibration.float16 import float16_from_float32, float32_nodes

    return _or_reason("FP16", lambda: (float16_from_float32(model, extremes), float32_nodes(model, extremes)))


def bfloat16_form(model: onnx.ModelProto) -> Float16:
    from calibration.bfloat16 import bfloat16_from_float32

    return _or_reason("BF16", lambda: bfloat16_from_float32(model))


def forms_beside(
    source: Ranged,
    corrected: Mapping[str, onnx.ModelProto],
    placements: Mapping[str, Placement],
    int8: Mapping[str, onnx.ModelProto],
    exported: Ranged,
) -> dict[str, Float16]:
    """By file name; FP8 is made of `exported`, the graph before its channels were scaled or shifted for INT8.

    Numbers with an exponent need no scale for each channel, and are finest around zero, where a shift takes most from.
    """
    from calibration.float16_rest import with_float16_rest
    from calibration.placement.families import FAMILY

    found: dict[str, Float16] = {}
    for family, placement in placements.items():
        if not FAMILY[placement.family].takes_float16:
            continue
        mixed = partial(with_float16_rest, int8[family], corrected[family], source.extremes)
        found[f"{family}.int8+fp16.onnx"] = _or_reason(f"{family} INT8 with FP16", mixed)
        fp8 = partial(_fp8_form, exported, placement)
        found[f"{family}.fp8.onnx"] = _or_reason(f"{family} FP8", fp8)
    return found


def _fp8_form(source: Ranged, placement: Placement) -> tuple[onnx.ModelProto, Mapping[str, str]]:
    from calibration.float16_rest import fp8_graph
    from calibration.placement.place import place

    own = place(source.model, placement.family, placement.spared)
    return fp8_graph(source.model, source.ranges, own, source.extremes)


def _or_reason(what: str, made: Callable[[], tuple[onnx.ModelProto, Mapping[str, str]]]) -> Float16:
    """INT8 does not need it, so a graph without such a form is no failure until it is asked for."""
    try:
        return Float16(*made())
    except CalibrationError as error:
        return Float16(None, {}, f"no {what} graph, because {str(error).strip()}")
