"""What one pass over the samples leaves of their values: moments of each sample, by channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.interface import IMAGE_AXES, MASK, InputSpec


@dataclass(frozen=True)
class Moments:
    """Over some samples, by channel: (channels,)."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


class InputStatistics:
    """Of one input: by channel for an image, else over all that is not padding."""

    def __init__(self, spec: InputSpec, samples: int, mask: InputSpec | None = None) -> None:
        self.spec = spec
        self.is_padded = mask is not None and spec is not mask and spec.axes[:1] == mask.axes
        self.is_image = spec.axes == IMAGE_AXES
        channels = spec.shape[0] if self.is_image else 1
        self._counts = np.zeros(samples, np.int64)
        self._means, self._variances = (np.zeros((samples, channels)) for _ in range(2))
        self._lows, self._highs = (np.zeros((samples, channels)) for _ in range(2))

    def add(self, index: int, inputs: Mapping[str, NDArray[Any]]) -> None:
        """One sample's arrays by input name."""
        values = np.asarray(inputs[self.spec.name])
        if self.is_padded:
            values = values[inputs[MASK] != 0]
        wide = values.reshape(self._means.shape[1], -1).astype(np.float64)
        self._counts[index] = wide.shape[1]
        self._means[index], self._variances[index] = wide.mean(axis=1), wide.var(axis=1)
        self._lows[index], self._highs[index] = wide.min(axis=1), wide.max(axis=1)

    def over(self, indices: NDArray[np.int64]) -> Moments:
        """Of these samples."""
        counts, means = self._counts[indices, None], self._means[indices]
        total = counts.sum()
        mean = (counts * means).sum(axis=0) / total
        variance = (counts * (self._variances[indices] + (means - mean) ** 2)).sum(axis=0) / total
        return Moments(mean, np.sqrt(variance))

    def range(self) -> tuple[float, float]:
        """The least and the largest value of all samples."""
        return float(self._lows.min()), float(self._highs.max())

    def constant(self) -> NDArray[np.int64]:
        """Indices of the samples of which every channel has one value throughout."""
        return np.flatnonzero((self._lows == self._highs).all(axis=1))
