"""The least and the largest value of each channel of one tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChannelExtremes:
    """(channels,) each."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def merged(self, other: ChannelExtremes) -> ChannelExtremes:
        """Of the images of both."""
        return ChannelExtremes(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def to_json(self) -> dict[str, list[float]]:
        """Channel by channel."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}
