"""A graph and what a pass over the data found of its tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.quantizing.settings import CalibrationData, QuantizationSettings

if TYPE_CHECKING:
    import onnx

    from calibration.statistics import Sketches


@dataclass(frozen=True)
class Measured:
    """One pass."""

    model: onnx.ModelProto
    sketches: Sketches
    before: Measured | None = None
    """The same as it was exported, where its channels were scaled or shifted for INT8 since."""

    def over(self, changed: onnx.ModelProto, data: CalibrationData, settings: QuantizationSettings) -> Measured:
        """Another graph with the same inputs, measured on the same data."""
        from calibration.statistics.collect import collect
        from calibration.statistics.origin import graph_digest

        sketches = collect(changed, data.batches(), threads=settings.threads, channels=settings.channel_extremes)
        sketches.origin = self.sketches.origin and replace(self.sketches.origin, graph=graph_digest(changed))
        return Measured(changed, sketches, self)
