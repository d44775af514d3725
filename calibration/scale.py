"""The one way from a range to a symmetric scale: Q/DQ graphs, calibration caches and range tables share its bits.

    scale = float32(amax / levels),   levels = 127 for INT8

The division is in float64 and rounded once. For an amax that float32 holds, as `ranges_from_sketches` makes them,
these are also the bits of a division in float32, which is what `ITensor.set_dynamic_range(-amax, amax)` has to work
with: rounding a quotient of two float32 values to float64 first does not change it.
"""

from __future__ import annotations

import math

import numpy as np

INT8_LEVELS = 127

LEAST_USUAL_AMAX, LARGEST_USUAL_AMAX = 1e-6, 65504.0
"""What no activation stays below that means something, and the largest of half precision, which the layers around INT8
are mostly in."""

LEAST_SCALE = float(np.finfo(np.float32).tiny)
"""Runtimes flush what is smaller to zero, and divide by it."""


def scale_from_amax(amax: float, levels: int = INT8_LEVELS) -> np.float32:
    """The scale that is stored for a tensor whose largest magnitude is amax; 1 where all of it is zero."""
    return stored_scale(amax / levels)


def stored_scale(scale: float) -> np.float32:
    """The scale in float32: not below `LEAST_SCALE`; a tensor that is all zero has any, so 1."""
    return np.float32(max(scale, LEAST_SCALE)) if scale > 0 else np.float32(1.0)


def amax_from_scale(scale: np.float32, levels: int = INT8_LEVELS) -> float:
    """The amax from which `scale_from_amax` makes exactly this scale: the product is exact in float64."""
    return float(scale) * levels


def nearest_float32(value: float) -> float:
    """The value in float32; what would become infinite stays at the largest finite one."""
    largest = float(np.finfo(np.float32).max)
    return float(np.float32(value)) if abs(value) <= largest else math.copysign(largest, value)
