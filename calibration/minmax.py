"""Min-max: everything that was seen fits; one outlier sets the scale."""

from __future__ import annotations

from typing import ClassVar, final

from calibration.method import Method, Range
from calibration.statistics import Sketch


@final
class MinMax(Method):
    """The exact extremes: nothing that was measured saturates."""

    name: ClassVar[str] = "minmax"

    def range_of(self, sketch: Sketch) -> Range:
        return Range(sketch.minimum, sketch.maximum)
