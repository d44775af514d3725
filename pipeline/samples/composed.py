"""Data sets composed of the digits on the spot, the same each time.

Each digit image goes into samples of one split alone, so the compositions bring their own splits; `[data] split` and
the recipe's seed do not change them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.splits import SPLITS, SplitName, SplitShares, split_by_content
from pipeline.samples.arrays import ArraySamples
from pipeline.samples.base import Axes, Samples
from pipeline.samples.digits import BRIGHTEST, digit_images
from pipeline.tasks.task import Task

SEED = 8
"""Of the composition: another one would be another data set."""
CANVAS_PIXELS = 32
CANVASES = dict(zip(SPLITS, (900, 150, 150, 300), strict=True))
INK = 0.4
"""Share of the darkest stroke from which a pixel belongs to its digit."""
SEQUENCES = dict(zip(SPLITS, (1440, 240, 240, 480), strict=True))
MOST_DIGITS = 4
ROWS_AXES: Axes = {"rows": ("length", "features"), "mask": ("length",)}
DIGIT_NAMES = np.asarray([str(digit) for digit in range(10)])


def digit_canvases(task: Task) -> Samples:
    """1,500 gray canvases (32, 32) with 1 to 4 digits of 8 to 16 pixels that do not overlap, on a noisy ground.

    A label (32, 32) is 0 on the ground and 1 + the digit on its strokes.
    """
    images, labels = digit_images()
    random = np.random.Generator(np.random.Philox(key=[SEED, 1]))
    canvases: list[NDArray[Any]] = []
    maps: list[NDArray[Any]] = []
    for split, pool in _pools(images, labels).items():
        stream = _endless(pool, random)
        for _ in range(CANVASES[split]):
            canvas, of_pixels = _canvas(images, labels, stream, random)
            canvases.append(canvas)
            maps.append(of_pixels)
    arrays = {"images": np.stack(canvases), "labels": np.stack(maps), "splits": _repeated(CANVASES)}
    classes = np.concatenate([["ground"], DIGIT_NAMES])
    return ArraySamples({**arrays, "classes": classes}, "digit-canvases", task)


def digit_rows(task: Task) -> Samples:
    """2,400 sequences of 1 to 4 digits read row by row: `rows` (32, 8) of 0 to 1, `mask` (32,), padding behind.

    The label is the last digit, so where a sequence ends must be known.
    """
    images, labels = digit_images()
    random = np.random.Generator(np.random.Philox(key=[SEED, 2]))
    chosen = [digits for split, pool in _pools(images, labels).items() for digits in _sequences(split, pool, random)]
    height = images.shape[1]
    rows = np.zeros((len(chosen), MOST_DIGITS * height, images.shape[2]), np.float32)
    mask = np.zeros(rows.shape[:2], np.float32)
    for sample, digits in enumerate(chosen):
        rows[sample, : len(digits) * height] = images[list(digits)].reshape(-1, images.shape[2]) / BRIGHTEST
        mask[sample, : len(digits) * height] = 1
    last = labels[[digits[-1] for digits in chosen]]
    arrays = {"rows": rows, "mask": mask, "labels": last, "classes": DIGIT_NAMES, "splits": _repeated(SEQUENCES)}
    return ArraySamples(arrays, "digit-rows", task, ROWS_AXES)


def _pools(images: NDArray[Any], labels: NDArray[np.int64]) -> dict[SplitName, NDArray[np.int64]]:
    """Which digit images each split is composed of."""
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    splits = np.asarray(split_by_content(digests, labels, SplitShares(), SEED))
    return {name: np.flatnonzero(splits == name) for name in SPLITS}


def _repeated(counts: dict[SplitName, int]) -> NDArray[Any]:
    return np.repeat(list(counts), list(counts.values()))


def _endless(pool: NDArray[np.int64], random: np.random.Generator) -> Iterator[int]:
    """Every image of a pool before any comes again."""
    while True:
        yield from random.permutation(pool).tolist()


def _sequences(split: SplitName, pool: NDArray[np.int64], random: np.random.Generator) -> list[tuple[int, ...]]:
    """No sequence twice."""
    stream = _endless(pool, random)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < SEQUENCES[split]:
        found[tuple(next(stream) for _ in range(random.integers(1, MOST_DIGITS + 1)))] = None
    return list(found)


def _canvas(
    images: NDArray[Any], labels: NDArray[np.int64], stream: Iterator[int], random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image, and the class of each of its pixels."""
    ground, stroke = random.uniform(0.1, 0.4), random.uniform(0.6, 1.0)
    light = np.full((CANVAS_PIXELS, CANVAS_PIXELS), ground) + random.normal(0, 0.03, (CANVAS_PIXELS, CANVAS_PIXELS))
    of_pixels = np.zeros(light.shape, np.uint8)
    for top, left, size in _places(random):
        digit = next(stream)
        ink = _scaled(images[digit] / BRIGHTEST, size)
        area = np.s_[top : top + size, left : left + size]
        light[area] += ink * (stroke - ground)
        of_pixels[area] = np.where(ink > INK, 1 + labels[digit], 0)
    return (light.clip(0, 1) * 255).round().astype(np.uint8), of_pixels


def _places(random: np.random.Generator) -> list[tuple[int, int, int]]:
    """(top, left, size) of 1 to 4 squares that do not overlap; what finds no room in a few tries is left out."""
    places: list[tuple[int, int, int]] = []
    for _ in range(random.integers(1, MOST_DIGITS + 1)):
        for _ in range(10):
            size = int(random.integers(8, 17))
            top, left = random.integers(0, CANVAS_PIXELS - size + 1, 2).tolist()
            if all(
                top + size <= other or other + extent <= top or left + size <= beside or beside + extent <= left
                for other, beside, extent in places
            ):
                places.append((top, left, size))
                break
    return places


def _scaled(image: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Bilinear, to a square of `size` pixels; element by element, so that every machine gets the same bits."""
    before, after, share = _neighbours(image.shape[0], size)
    wide = image.astype(np.float64)
    tall = wide[before] * (1 - share)[:, None] + wide[after] * share[:, None]
    scaled: NDArray[np.float64] = tall[:, before] * (1 - share) + tall[:, after] * share
    return scaled


@cache
def _neighbours(lines: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each new line the two old ones that it lies between, and how far it is on its way to the second."""
    centres = ((np.arange(size) + 0.5) * lines / size - 0.5).clip(0, lines - 1)
    before = np.floor(centres).astype(np.int64)
    return before, np.minimum(before + 1, lines - 1), centres - before
