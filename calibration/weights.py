"""Scales of weights: symmetric, one for each output channel, by the largest weight or by the least squared error."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from calibration.scale import LEAST_SCALE

WeightMethod = Literal["max", "mse"]
WEIGHT_METHODS: tuple[WeightMethod, ...] = get_args(WeightMethod)

_CLIPPING = np.linspace(1.0, 0.4, 31)
"""Candidates for `mse`: shares of a channel's largest weight, from which on all larger ones saturate."""


def weight_scales(
    weight: NDArray[np.float32],
    axis: int,
    limit: int,
    least: NDArray[np.float64] | None = None,
    method: WeightMethod = "max",
) -> NDArray[np.float32]:
    """Scales of weights in [-limit, limit], (channels,); a channel of zeros gets the largest scale of the others.

    `max`: nothing saturates. `mse`: the share of `max` whose rounding and saturation have the least squared error in
    the channel, the largest of equals. `least` bounds each scale from below, so that an INT32 bias can be represented.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    largest = np.abs(rows).max(axis=1).astype(np.float64) / limit
    widest = float(largest.max())
    largest = np.where(largest > 0, largest, widest if widest > 0 else 1.0)
    floor = np.maximum(LEAST_SCALE, 0.0 if least is None else least)
    scales = np.maximum(largest, floor).astype(np.float32)
    if method == "max":
        return scales
    errors = _squared_errors(rows, scales, limit)
    for share in _CLIPPING[1:]:
        narrower = np.maximum(largest * share, floor).astype(np.float32)
        found = _squared_errors(rows, narrower, limit)
        scales = np.where(found < errors, narrower, scales)
        errors = np.minimum(found, errors)
    return scales


def _squared_errors(rows: NDArray[np.float32], scales: NDArray[np.float32], limit: int) -> NDArray[np.float64]:
    """(channels,): sum of (w - s q(w / s))^2."""
    scale = scales[:, None]
    off = rows - scale * np.clip(np.rint(rows / scale), -limit, limit)
    return np.asarray(np.einsum("cw,cw->c", off, off, dtype=np.float64), np.float64)
