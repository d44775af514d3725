"""Counting values into bins: where a calibration pass spends the time that it adds to the network's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""Bins on each side of zero; 2,048 to 4,096 of them lie within the largest magnitude."""

_CHUNK = 1 << 15  # values binned at a time: the scratch arrays stay in the L2 cache
_ALTERNATING = np.tile(np.array([0, BINS], np.int16), _CHUNK // 2)
_ALTERNATES_FROM = 1 << 12  # fewer values than this are counted sooner than twice the bins are added up


def add_counts(
    counts: NDArray[np.int64], flat: NDArray[np.float32], bins_per_unit: np.float32, low: np.float32, high: np.float32
) -> int:
    """Adds values in [low, high] to the counts of the bins 1 - BINS ... BINS - 1; returns how many of them are zero.

    Truncates towards zero, as merging bins in pairs does. A value's magnitude times `bins_per_unit` is below BINS.
    """
    first, last = int(low * bins_per_unit), int(high * bins_per_unit)
    size = min(_CHUNK, flat.size)
    scaled, numbers, is_zero = np.empty(size, np.float32), np.empty(size, np.int16), np.empty(size, np.bool_)
    zeros = 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        number = numbers[: chunk.size]
        np.multiply(chunk, bins_per_unit, out=scaled[: chunk.size])
        np.copyto(number, scaled[: chunk.size], casting="unsafe")
        zeros += int(np.count_nonzero(np.equal(chunk, 0.0, out=is_zero[: chunk.size])))
        if first == 0 and chunk.size >= _ALTERNATES_FROM:
            _count_from_zero(counts[BINS - 1 :], number)
        else:
            number -= first
            counts[BINS - 1 + first : BINS + last] += np.bincount(number, minlength=last - first + 1)
    return zeros


def _count_from_zero(counts: NDArray[np.int64], numbers: NDArray[np.int16]) -> None:
    """Where a ReLU left every other value in bin 0, the processor would wait for one addition before the next.

    Values at even and odd places go into bins of their own. Changes `numbers`.
    """
    numbers += _ALTERNATING[: numbers.size]
    even, odd = np.bincount(numbers, minlength=2 * BINS).reshape(2, BINS)
    counts += even
    counts += odd
