"""Min-max: everything that was seen fits; one outlier sets the scale."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from calibration.methods.method import Method, Range
from calibration.statistics import Sketch
from calibration.statistics.resampling import Resampled


@final
class MinMax(Method):
    """The exact extremes: nothing that was measured saturates."""

    name: ClassVar[str] = "minmax"

    def range_of(self, sketch: Sketch) -> Range:
        return Range(sketch.minimum, sketch.maximum)

    def resampled_ranges(
        self,
        resampled: Resampled,
        chosen: Range,  # noqa: ARG002 the extremes need no start
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return resampled.minimum, resampled.maximum
