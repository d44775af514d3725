"""How many of the samples a calibration goes through: all, the first so many, or as many as its ranges need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.quantizing.settings import CalibrationData, Images

if TYPE_CHECKING:
    from calibration.statistics.collect import Batch

_SMALLEST = 16
_GOLDEN = (math.sqrt(5) - 1) / 2


def images_from_text(text: str) -> Images:
    """Raises ValueError on anything but `all`, `auto` and a positive number."""
    if text in ("all", "auto"):
        return "all" if text == "all" else "auto"
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ValueError(f"images must be all, auto or a number of images such as 500, found {text!r}")


def asked_for(data: CalibrationData, images: Images, called: str) -> CalibrationData:
    """The part of the data, or the order of it, that `images` means; `called` is how the user asked.

    Raises DataRejected where there are fewer than were asked for.
    """
    if images == "all":
        return data
    if images == "auto":
        return spread(data)
    if images > data.samples:
        raise DataRejected(f"{called} {images}, but there are {data.samples}; lower it or give more")
    if images % data.images_a_run:
        raise DataRejected(
            f"{called} {images}, but the graph takes batches of exactly {data.images_a_run}: ask for a multiple of it"
        )
    return first_of(data, images)


def first_of(data: CalibrationData, samples: int) -> CalibrationData:
    """The first so many."""
    if samples == data.samples:
        return data
    return replace(
        data,
        samples=samples,
        batches=lambda: data.part(0, samples),
        between=data.part,
        with_numbers=data.chosen,
        digest_of_all=data.digest,
    )


def spread(data: CalibrationData) -> CalibrationData:
    """The same samples in an order whose every beginning, up to a mark, is spread evenly over all of them.

    Folders and arrays are often sorted by class, and a pass that may end early must not end with the first class.
    Sample i is number i * stride mod n of the data; the stride is nearest to n times the golden ratio of what shares
    no divisor with n, so that each sample comes once. Between two marks, where no pass ends, samples come in the order
    of the data: a compressed file is then read forward, once for each stretch.
    """
    size = data.images_a_run
    runs = data.samples // size
    edges = _edges(data.samples, size)
    order = np.arange(runs, dtype=np.int64) * _stride(runs) % runs
    for first, stop in pairwise(edges):
        order[first:stop].sort()

    def between(start: int, stop: int) -> Iterator[Batch]:
        inside = (edge for edge in edges if start < edge * size < stop)
        for first, last in pairwise((start // size, *inside, stop // size)):
            yield from data.chosen(_of_runs(order[first:last], size).tolist())

    return replace(
        data,
        batches=lambda: between(0, data.samples),
        between=between,
        with_numbers=None,
        digest_of_all=data.digest,
    )


def _edges(samples: int, images_a_run: int) -> tuple[int, ...]:
    """In runs: where a pass may end, and before them `_SMALLEST`, which some steps look at alone."""
    from calibration.statistics.sufficiency import marks

    inside = (_SMALLEST, *marks(samples, images_a_run))
    runs = samples // images_a_run
    return tuple(sorted({0, runs, *(min(-(-edge // images_a_run), runs) for edge in inside)}))


def _of_runs(runs: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Numbers of the samples in these runs."""
    return (runs[:, None] * size + np.arange(size)).reshape(-1)


def evenly(data: CalibrationData, most: int) -> tuple[CalibrationData, NDArray[np.int64]]:
    """At most so many samples, spread over all of them in their order, and their numbers; whole runs of the graph."""
    if data.samples <= most:
        return data, np.arange(data.samples)
    size = data.images_a_run
    chosen = evenly_spaced(data.samples // size, max(most // size, 1))
    numbers = _of_runs(chosen, size)

    def between(start: int, stop: int) -> Iterator[Batch]:
        return data.chosen(numbers[start:stop].tolist())

    found = replace(
        data,
        samples=len(numbers),
        batches=lambda: between(0, len(numbers)),
        between=between,
        with_numbers=None,
        digest_of_all=data.digest,
    )
    return found, numbers


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of the numbers below `count`, spread over all of them: data are often sorted by class."""
    wanted = min(count, most)
    return np.arange(wanted, dtype=np.int64) * count // max(wanted, 1)


def _stride(runs: int) -> int:
    wanted = round(runs * _GOLDEN)
    coprime = (each for each in range(1, runs + 1) if math.gcd(each, runs) == 1)
    return min(coprime, key=lambda each: abs(each - wanted))
