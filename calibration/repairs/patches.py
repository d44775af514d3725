"""The rows that a layer multiplies its weight with: of a convolution, the patches under its kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper


def columns(
    values: NDArray[np.float32], node: NodeProto, kernel: tuple[int, ...], most: int, draw: np.random.Generator
) -> NDArray[np.float32]:
    """(groups, weights of an output channel, columns): some of what a Conv, Gemm or MatMul reads, drawn at random.

    values: the activation, (images, channels, ...) of a Conv, else (..., weights of an output channel). About `most`
    columns, whatever their number: a few from every image.
    """
    if node.op_type != "Conv":
        rows = values.reshape(-1, values.shape[-1])
        if len(rows) > most:
            rows = rows[draw.choice(len(rows), most, replace=False)]
        return np.ascontiguousarray(rows.T)[None]
    window = _window_of(node, kernel, values.shape[2:])
    padded = np.pad(values, ((0, 0), (0, 0), *window.pads))
    count = math.prod(window.sizes)
    wanted = max(1, most // len(values))
    chosen = draw.choice(count, wanted, replace=False) if count > wanted else np.arange(count)
    places = np.unravel_index(chosen, window.sizes)
    corners = [place * stride for place, stride in zip(places, window.strides, strict=True)]
    under = []
    for offset in np.ndindex(*kernel):
        at = [
            corner + step * dilation for corner, step, dilation in zip(corners, offset, window.dilations, strict=True)
        ]
        under.append(padded[(slice(None), slice(None), *at)])
    found = np.stack(under).transpose(2, 0, 1, 3)  # (channels, kernel, images, places)
    return found.reshape(window.groups, -1, len(values) * len(chosen))


@dataclass(frozen=True)
class _Window:
    """How a convolution goes over its input, one entry a spatial axis."""

    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    """Of the result."""


def _window_of(node: NodeProto, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> _Window:
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    rank = len(spatial)
    strides, dilations = (tuple(given.get(name, [1] * rank)) for name in ("strides", "dilations"))
    reach = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    pads = _pads(given, spatial, strides, reach)
    sizes = [
        (size + sum(pad) - covered) // stride + 1
        for size, pad, covered, stride in zip(spatial, pads, reach, strides, strict=True)
    ]
    return _Window(given.get("group", 1), strides, dilations, pads, tuple(sizes))


def _pads(
    given: dict[str, object], spatial: tuple[int, ...], strides: tuple[int, ...], reach: list[int]
) -> tuple[tuple[int, int], ...]:
    """Before and after each axis, as the ONNX operator Conv defines `auto_pad`."""
    automatic = given.get("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        found = []
        for size, stride, covered in zip(spatial, strides, reach, strict=True):
            missing = max((-(-size // stride) - 1) * stride + covered - size, 0)
            less, more = missing // 2, missing - missing // 2
            found.append((less, more) if automatic == b"SAME_UPPER" else (more, less))
        return tuple(found)
    pads = given.get("pads")
    if automatic == b"VALID" or not isinstance(pads, list):
        return ((0, 0),) * len(spatial)
    return tuple(zip(pads[: len(spatial)], pads[len(spatial) :], strict=True))
