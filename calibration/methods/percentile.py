"""Percentile: the threshold that all but a small share of the values lie within."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.methods.method import Method, Range
from calibration.statistics import Sketch
from calibration.statistics.resampling import Resampled


@final
@dataclass(frozen=True)
class Percentile(Method):
    """The least bin edge that `percentile` percent of all |x|, zeros among them, lie within, cut to what was seen.

    The same rule as `_compute_amax_percentile` of NVIDIA's pytorch-quantization (`calib/histogram.py`).
    """

    name: ClassVar[str] = "percentile"

    percentile: float = 99.999
    """99.99 costs networks of depthwise convolutions 2 to 6 dB: what is cut off adds up, what is rounded does not."""

    def __post_init__(self) -> None:
        if not 50.0 <= self.percentile <= 100.0:
            raise CalibrationError(
                f"percentile is {self.percentile:g}; it is a percentage of the values, from 50 to 100, such as 99.99"
            )

    def range_of(self, sketch: Sketch) -> Range:
        within = np.cumsum(sketch.magnitudes) + sketch.zeros  # (BINS,): of |x| below the upper edge of each bin
        edge = int(np.searchsorted(within, sketch.count * self.percentile / 100)) + 1
        threshold = edge * sketch.width
        if threshold == 0.0:  # only zeros were seen
            return Range(sketch.minimum, sketch.maximum)
        return Range(max(sketch.minimum, -threshold), min(sketch.maximum, threshold))

    def resampled_ranges(
        self,
        resampled: Resampled,
        chosen: Range,  # noqa: ARG002 a quantile needs no start
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        within = resampled.weights @ np.cumsum(resampled.magnitudes, axis=1)  # (resamples, BINS)
        wanted = resampled.count * self.percentile / 100 - resampled.zeros
        # Counts are scaled by shares, so what is equal is so up to rounding.
        edge = (within < (wanted - 1e-6)[:, None]).sum(axis=1) + 1
        return resampled.cut(edge * resampled.sketch.width)
