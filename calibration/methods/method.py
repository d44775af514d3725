"""What a calibration method is: it turns the statistics of one tensor into the range that INT8 will cover."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calibration.errors import CalibrationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from calibration.statistics import Sketch
    from calibration.statistics.resampling import Resampled


@dataclass(frozen=True)
class Range:
    """The closed interval of real values that a quantized tensor covers; what lies outside saturates."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise CalibrationError(f"range [{self.low}, {self.high}] is not finite; look for NaN or inf in the data")
        if self.low > self.high:
            raise CalibrationError(f"range [{self.low}, {self.high}] is empty: its low end is above its high end")

    @property
    def amax(self) -> float:
        """The largest magnitude, from which a symmetric scale is made."""
        return max(abs(self.low), abs(self.high))


class Method(ABC):
    """One way to choose a range. Stateless; its subclasses are final and one line each in `calibration.METHODS`.

    One that has a setting is a frozen dataclass with that one field.
    """

    name: ClassVar[str]

    @abstractmethod
    def range_of(self, sketch: Sketch) -> Range:
        """The range to cover, within the sketch's exact extremes. It does not depend on the target."""

    @abstractmethod
    def resampled_ranges(self, resampled: Resampled, chosen: Range) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(resamples,) low ends and high ends of what it would choose of each resample; `chosen` is of the sketch."""
