"""Which images reach furthest in a tensor: the two largest values of all images, with the image that each is of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Image:
    """One image of the data, or those that a graph of a fixed batch takes together."""

    index: int
    """In all of the data, whatever the shard; of several the first."""
    name: str


@dataclass(frozen=True)
class Peak:
    """The largest value that an image brings, the lowest one negated."""

    value: float
    image: Image


@final
class Peaks:
    """The two largest values of different images; the earlier image of equals, so that no order of adding matters."""

    def __init__(self) -> None:
        self._held: list[Peak] = []
        self._least = -math.inf

    @property
    def held(self) -> tuple[Peak, ...]:
        """At most two, the largest first."""
        return tuple(self._held)

    def add(self, value: float, image: Image) -> None:
        """Of an image that was not added before."""
        if value >= self._least:
            self._held = sorted([*self._held, Peak(value, image)], key=lambda peak: (-peak.value, peak.image.index))[:2]
            self._least = self._held[1].value if len(self._held) == 2 else -math.inf

    def merge(self, other: Peaks) -> None:
        """Adds what the other held."""
        for peak in other.held:
            self.add(peak.value, peak.image)


def extremes_of(
    values: NDArray[np.float32], images: Sequence[Image], low: float, high: float
) -> Iterator[tuple[Image, float, float]]:
    """The least and the largest value of each image where the rows are images, else of all that ran together.

    `low` and `high` are those of all values.
    """
    if not images:
        return
    if len(images) == 1 or not values.ndim or values.shape[0] % len(images):
        together = images[0] if len(images) == 1 else Image(images[0].index, f"{images[0].name}…{images[-1].name}")
        yield together, low, high
        return
    rows = values.reshape(len(images), -1)
    yield from zip(images, rows.min(axis=1).tolist(), rows.max(axis=1).tolist(), strict=True)
