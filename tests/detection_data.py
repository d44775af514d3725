"""A user's own data: canvases with one to four digits and their boxes. As `data.py` it stands beside a recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.samples.digits import BRIGHTEST, digit_images

CANVASES = {"train": 200, "validation": 40, "calibration": 40, "test": 60}
DIGITS = 3
PIXELS, QUARTER = 32, 16


def make_dataset() -> tuple[NDArray[Any], NDArray[Any], list[str], list[str]]:
    """Images (n, 32, 32), labels (n, 4, 5): class, centre x and y, width, height, as shares; class -1: no box."""
    images, digits = digit_images()
    random = np.random.default_rng(0)
    # Each split draws from digits of its own.
    pools = np.array_split(random.permutation(np.flatnonzero(digits < DIGITS)), len(CANVASES))
    drawn = [
        canvas(images, digits, random.choice(pool, random.integers(1, 5), replace=False), random)
        for pool, count in zip(pools, CANVASES.values(), strict=True)
        for _ in range(count)
    ]
    splits = np.repeat(list(CANVASES), list(CANVASES.values())).tolist()
    return np.stack([each[0] for each in drawn]), np.stack([each[1] for each in drawn]), list("012"), splits


def canvas(
    images: NDArray[Any], digits: NDArray[np.int64], chosen: NDArray[np.int64], random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Each digit in a quarter of its own, of 10 to 14 pixels."""
    light = random.normal(40, 6, (PIXELS, PIXELS))
    labels = np.full((4, 5), [-1, 0, 0, 0, 0], np.float32)
    for place, (digit, quarter) in enumerate(zip(chosen.tolist(), random.permutation(4).tolist(), strict=False)):
        size = int(random.integers(10, 15))
        top, left = (random.integers(0, QUARTER - size + 1, 2) + QUARTER * np.array(divmod(quarter, 2))).tolist()
        ink = Image.fromarray(images[digit] / np.float32(BRIGHTEST)).resize((size, size), Image.Resampling.BILINEAR)
        light[top : top + size, left : left + size] += 180 * np.asarray(ink)
        labels[place] = digits[digit], *np.array([left + size / 2, top + size / 2, size, size]) / PIXELS
    return light.clip(0, 255).astype(np.uint8), labels
