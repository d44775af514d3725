"""When a pass over images has seen enough: the ranges that a method would choose of them are tight.

It is asked at marks that lie about 40 % apart, not after every image: each question costs a choice of every range, and
the more often it is asked, the sooner chance answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from calibration.methods.method_text import method_from_text
from calibration.ranges import ranges_from_sketches
from calibration.statistics import Sketches
from calibration.statistics.confidence import Confidence, confidence_of, interval_of

LEAST_IMAGES = 32
"""Fewer are never enough."""


def marks(samples: int, images_a_run: int) -> Iterator[int]:
    """32, 48, 64, 96, 128, ... images, as whole runs of the graph, below the number of samples."""
    mark = LEAST_IMAGES
    while mark < samples:
        for each in (mark, mark + mark // 2):
            whole = -(-each // images_a_run) * images_a_run
            if whole < samples:
                yield whole
        mark *= 2


def confidence_in(sketches: Sketches, method_text: str) -> Confidence | None:
    """Of the ranges that the method would choose; None where the images are too few to say."""
    method, ranges = method_from_text(method_text), ranges_from_sketches(sketches, method_text)
    intervals = {name: interval_of(sketches.tensors[name], method, each) for name, each in ranges.tensors.items()}
    return confidence_of(intervals, ranges.tensors)


def is_enough(sketches: Sketches, methods: Sequence[str]) -> bool:
    """Whether the ranges of every one of the methods are tight."""
    found = (confidence_in(sketches, method) for method in methods)
    return sketches.images >= LEAST_IMAGES and all(each is not None and each.is_tight for each in found)
