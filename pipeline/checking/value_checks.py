"""What is said of the values that a network will be fed, against the normalization that the recipe states."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.input_statistics import InputStatistics
from pipeline.data.preprocess import Preprocess
from pipeline.models.interface import MASK
from pipeline.reporting.result import Finding

MOST_PADDING = 0.75
FLAT = 1e-6
"""Deviation, as a share of the mean, that is rounding."""


def value_findings(
    statistics: InputStatistics,
    preprocess: Preprocess | None,
    train: NDArray[np.int64],
    named: Callable[[NDArray[np.int64]], str],
) -> Iterator[Finding]:
    """Of one input; `train` holds the indices of the training split, `named` writes samples as the user knows them."""
    name = statistics.spec.name
    if name == MASK:
        padding = 1.0 - float(statistics.over(train).mean[0])
        yield _note(f"{padding:.0%} of the training sequences is padding")
        if padding > MOST_PADDING:
            yield _warning(f"{padding:.0%} of the training sequences is padding: shorter ones would train faster")
    elif statistics.is_image and preprocess is not None:
        yield from _normalization(statistics, preprocess, train)
        if len(constant := statistics.constant()):
            yield _warning(f"{len(constant)} images are of one value throughout: {named(constant)}")
    elif statistics.spec.dtype == "float32":
        found = statistics.over(train)
        place = ", padding left out" if statistics.is_padded else ""
        yield _note(f"input '{name}' has mean {_shown(found.mean)} and deviation {_shown(found.std)}{place}")
        if not _is_unit_scale(found.mean, found.std):
            yield _warning(f"input '{name}' is far from unit scale: is it what the teacher was trained on?")
    else:
        low, high = statistics.range()
        yield _note(f"input '{name}' holds values from {low:.0f} to {high:.0f}")


def _normalization(statistics: InputStatistics, preprocess: Preprocess, train: NDArray[np.int64]) -> Iterator[Finding]:
    """Of each channel: what it has, and what it should have where mean and std were stated."""
    found = statistics.over(train)
    stated_mean, stated_std = (np.broadcast_to(each, found.mean.shape) for each in (preprocess.mean, preprocess.std))
    own_mean, own_std = found.mean * stated_std + stated_mean, found.std * stated_std
    # What has no deviation is not divided by it.
    paste = (
        f"mean = {_written(own_mean)}, std = {_written(np.where(found.std > FLAT * np.abs(found.mean), own_std, 1.0))}"
    )
    yield _note(f"the training images' own normalization, after scale {preprocess.scale:g}: {paste}")
    for channel in np.flatnonzero(found.std <= FLAT * np.abs(found.mean)):
        yield _warning(f"channel {channel} has one value throughout all training images")
    if (stated_mean == 0).all() and (stated_std == 1).all():
        if not _is_unit_scale(found.mean, found.std):
            yield _warning("the pixels are far from unit scale: is [data] preprocess the teacher's own?")
        return
    off = np.flatnonzero((np.abs(found.mean) > 0.5) | (found.std < 0.5) | (found.std > 2))
    if len(off):
        worst = off[np.argmax(np.abs(found.mean[off]) + np.abs(np.log(np.maximum(found.std[off], 1e-9))))]
        yield _warning(
            f"preprocess.mean and std should bring the pixels to mean 0 and deviation 1; channel {worst} has "
            f"{found.mean[worst]:.3g} and {found.std[worst]:.3g}: keep them if they are the teacher's own, else {paste}"
        )


def _is_unit_scale(mean: NDArray[np.float64], std: NDArray[np.float64]) -> bool:
    """Over all channels."""
    deviation = float(std.mean())
    return 0.05 <= deviation <= 20 and abs(float(mean.mean())) <= 10 * deviation


def _shown(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _written(values: NDArray[np.float64]) -> str:
    """As TOML."""
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


def _note(message: str) -> Finding:
    return Finding(severity="note", message=message)


def _warning(message: str) -> Finding:
    return Finding(severity="warning", message=message)
