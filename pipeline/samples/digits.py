"""scikit-learn's handwritten digits, the real images that the built-in recipes learn."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MachineLacks
from pipeline.samples.arrays import ArraySamples
from pipeline.samples.base import Samples
from pipeline.tasks.task import Task

BRIGHTEST = 16.0


def digits_file() -> Path:
    """scikit-learn's digits as its wheel packs them; found without importing it, which takes a second."""
    specification = importlib.util.find_spec("sklearn")
    folders = specification.submodule_search_locations if specification else None
    file = Path(next(iter(folders))) / "datasets" / "data" / "digits.csv.gz" if folders else None
    if file is None or not file.is_file():
        raise MachineLacks("the built-in digits are scikit-learn's images: pip install 'edgestill[demo]'")
    return file


def digit_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(1797, 8, 8) of values 0 to 16, and which digit each is."""
    with gzip.open(digits_file(), "rt", encoding="ascii") as file:
        rows = np.asarray([[float(value) for value in row] for row in csv.reader(file)], np.float32)
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def digits(task: Task) -> Samples:
    """1,797 images of handwritten digits, 8x8, values 0 to 16."""
    images, labels = digit_images()
    return ArraySamples({"images": images, "labels": labels}, "digits", task)
