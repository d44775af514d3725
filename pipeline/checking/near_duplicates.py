"""Images that look the same although their pixels differ: re-encoded, resized, brightened.

Two images are compared by the correlation of their area-averaged thumbnails, which neither brightness nor contrast
changes. A product of small gray thumbnails proposes pairs, in blocks, so that memory is bounded; larger thumbnails in
colour decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

COMPARED = 50_000
"""Images at most: the time grows with the square of their number."""
PROPOSING_PIXELS, DECIDING_PIXELS = 8, 16
"""Sides of the two thumbnails; a smaller image is its own."""
PROPOSED, ALIKE = 0.99, 0.995
"""Correlations. Of scikit-learn's digits, distinct pairs reach 0.9943, none more."""
BLOCK = 4096
FLAT = 1e-5
"""Deviation, as a share of the largest value, below which an image has no likeness but its rounding."""


@dataclass(frozen=True)
class Alike:
    """Two images of different splits, by index; the first is of a split that is not for training."""

    index: int
    other: int
    correlation: float


class Thumbnails:
    """Of every image, or of evenly chosen ones where there are more than `COMPARED`; flat ones have none."""

    def __init__(self, images: int) -> None:
        self.step = -(-images // COMPARED)
        self.indices: list[int] = []
        self._deciding: list[NDArray[np.float16]] = []

    def add(self, index: int, image: NDArray[np.float32]) -> None:
        """An image of (channels, height, width)."""
        if index % self.step:
            return
        small = _averaged(image, DECIDING_PIXELS)
        small -= small.mean()
        length = float(np.sqrt((small * small).sum()))
        if length > FLAT * float(np.abs(image).max()) * np.sqrt(small.size):
            self.indices.append(index)
            # Of unit length, so half precision holds them to 5e-4 of each value.
            self._deciding.append((small / length).astype(np.float16))

    def proposing(self) -> NDArray[np.float32]:
        """(images, pixels): gray, without mean, of unit length."""
        gray = np.stack([self._gray(each) for each in self._deciding])
        rows = gray.reshape(len(gray), -1)
        rows = rows - rows.mean(axis=1, keepdims=True)
        unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
        return unit

    def _gray(self, deciding: NDArray[np.float16]) -> NDArray[np.float32]:
        return _averaged(deciding.astype(np.float32).mean(axis=0, keepdims=True), PROPOSING_PIXELS)

    def correlations(self, rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of pairs, by position among the thumbnails."""
        pairs = zip(rows.tolist(), others.tolist(), strict=True)
        found = [
            (self._deciding[row].astype(np.float64) * self._deciding[other].astype(np.float64)).sum()
            for row, other in pairs
        ]
        return np.asarray(found, np.float64)


def near_duplicates(thumbnails: Thumbnails, splits: Mapping[str, NDArray[np.int64]], training: str) -> list[Alike]:
    """For each image outside the training split the one of another split that it looks like, the most alike first.

    `splits` holds the indices of the images of each split.
    """
    if not thumbnails.indices:
        return []
    rows, known = thumbnails.proposing(), np.asarray(thumbnails.indices)
    found: list[Alike] = []
    for name, indices in splits.items():
        own = np.isin(known, indices)
        if name != training:
            found += _best(_alike(thumbnails, rows, np.flatnonzero(own), np.flatnonzero(~own)))
    return sorted(found, key=lambda each: (-each.correlation, each.index))


def _alike(
    thumbnails: Thumbnails, rows: NDArray[np.float32], own: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[Alike]:
    for start in range(0, len(own), BLOCK):
        mine = own[start : start + BLOCK]
        for first in range(0, len(others), BLOCK):
            theirs = others[first : first + BLOCK]
            near = rows[mine] @ rows[theirs].T
            left, right = np.nonzero(near >= PROPOSED)
            if len(left) > BLOCK:
                # Much looks alike here, as the frames of a film do: the nearest of each is enough to say so.
                left = np.flatnonzero(near.max(axis=1) >= PROPOSED)
                right = near[left].argmax(axis=1)
            exact = thumbnails.correlations(mine[left], theirs[right])
            for place in np.flatnonzero(exact >= ALIKE):
                one, two = mine[left[place]], theirs[right[place]]
                yield Alike(thumbnails.indices[one], thumbnails.indices[two], float(exact[place]))


def _best(found: Iterator[Alike]) -> list[Alike]:
    best: dict[int, Alike] = {}
    for each in found:
        known = best.setdefault(each.index, each)
        if each.correlation > known.correlation:
            best[each.index] = each
    return list(best.values())


def _averaged(image: NDArray[np.float32], pixels: int) -> NDArray[np.float32]:
    """(channels, height, width) down to at most `pixels` of each."""
    _, height, width = image.shape
    averaged = _areas(height, min(height, pixels)) @ image @ _areas(width, min(width, pixels)).T
    return np.asarray(averaged, np.float32)


@cache
def _areas(before: int, after: int) -> NDArray[np.float32]:
    """(after, before): which share of each old line falls into a new one."""
    edges = np.arange(after + 1) * before / after
    lines = np.arange(before)
    overlap = np.minimum(edges[1:, None], lines + 1) - np.maximum(edges[:-1, None], lines)
    return (overlap.clip(0, None) * after / before).astype(np.float32)
