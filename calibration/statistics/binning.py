"""Counting values into bins: where a calibration pass spends the time that it adds to the network's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from calibration.statistics.summary import Summary

BINS = 4096
"""Bins on each side of zero; 2,048 to 4,096 of them lie within the largest magnitude."""

_CHUNK = 1 << 15  # values binned at a time: the scratch arrays stay in the L2 cache
_ALTERNATING = np.tile(np.array([0, BINS], np.int16), _CHUNK // 2)
_COMPARED_FROM = 1 << 12  # one call for few values; for many, two that use the vector unit
_ALTERNATES_FROM = 1 << 13  # fewer values than this are counted sooner than twice the bins are added up


def add_counts(counts: NDArray[np.int64], summaries: Sequence[Summary], bins_per_unit: float) -> int:
    """Adds what was counted to the non-zero values in bins 1 - BINS ... BINS - 1; returns how many are zero.

    Truncates towards zero, as merging bins in pairs does. `bins_per_unit` is a power of two; a value's magnitude times
    it is below BINS. A call takes as long for a few thousand values as for one: several summaries are counted sooner
    together.
    """
    first = int(min(summary.low for summary in summaries) * bins_per_unit)
    last = int(max(summary.high for summary in summaries) * bins_per_unit)
    zeros, factor = 0, np.float32(bins_per_unit)
    for stride in {summary.stride for summary in summaries}:
        parts = [summary.counted for summary in summaries if summary.stride == stride]
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
        zeros += stride * _add_values(counts, flat, stride, factor, (first, last))
    for summary in summaries:
        # Values that the last one would stand for and are not, or, below zero, those that are left for it to stand for.
        if beyond := summary.stride * summary.counted.size - summary.size:
            value = summary.counted[-1]
            counts[BINS - 1 + int(value * factor)] -= beyond
            zeros -= beyond if value == 0 else 0
    counts[BINS - 1] -= zeros
    return zeros


def _add_values(
    counts: NDArray[np.int64], flat: NDArray[np.float32], weight: int, factor: np.float32, bounds: tuple[int, int]
) -> int:
    """Each so often, the zeros into the middle bin; returns how many are zero. All bins are within the bounds."""
    first, last = bounds
    zeros = 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat if flat.size <= _CHUNK else flat[start : start + _CHUNK]
        numbers = (chunk * factor).astype(np.int16)
        if first <= 0 <= last:
            zeros += _zeros(chunk)
        found = _counts_from_zero(numbers)[: last + 1] if first == 0 else np.bincount(numbers - np.int16(first))
        if weight > 1:
            found *= weight
        counts[BINS - 1 + first : BINS - 1 + first + found.size] += found
    return zeros


def _zeros(values: NDArray[np.float32]) -> int:
    if values.size < _COMPARED_FROM:
        return values.size - int(np.count_nonzero(values))
    return int(np.count_nonzero(values == 0))


def _counts_from_zero(numbers: NDArray[np.int16]) -> NDArray[np.int64]:
    """Where a ReLU left every other value in bin 0, the processor would wait for one addition before the next.

    Many values at even and odd places go into bins of their own first. May change `numbers`.
    """
    if numbers.size < _ALTERNATES_FROM:
        return np.bincount(numbers)
    numbers += _ALTERNATING[: numbers.size]
    even, odd = np.bincount(numbers, minlength=2 * BINS).reshape(2, BINS)
    return np.asarray(even + odd, np.int64)
