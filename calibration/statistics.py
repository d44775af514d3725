"""Statistics of activations in one pass and flat memory, which merge exactly.

A `Sketch` counts values in bins whose width is a power of two. When a larger value arrives the bins merge in
pairs, and because scaling by a power of two and truncating are both exact, a value lands in the same bin whether
it was counted before or after: any split into batches or shards, in any order, gives the same sketch bit for bit.
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.binning import BINS, add_counts
from calibration.errors import CalibrationError

__all__ = ["BINS", "Origin", "Sketch", "Sketches"]

_LEAST_EXPONENT = -100  # below 2**-100 everything shares the middle bin: a float32 scale factor must not overflow
_FORMAT = 2


@dataclass
class Sketch:
    """What is known of one tensor's values.

    `counts` has 2 * BINS - 1 entries for the signed bin numbers 1 - BINS ... BINS - 1: number i > 0 counts values in
    [i, i + 1) * width, number -i its mirror image, and number 0 the non-zero values in (-width, width).
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    count: int = 0
    zeros: int = 0
    exponent: int | None = None
    """Every magnitude is below 2**exponent; None while only zeros were seen."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * BINS - 1, np.int64))

    @property
    def width(self) -> float:
        """Of one bin; 0.0 while only zeros were seen."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent) / BINS

    @property
    def magnitudes(self) -> NDArray[np.int64]:
        """(BINS,) counts of non-zero values by magnitude: entry i is [i, i + 1) * width."""
        middle = BINS - 1
        folded = self.counts[middle:].copy()
        folded[1:] += self.counts[:middle][::-1]
        return folded

    def update(self, values: NDArray[np.float32]) -> None:
        """Counts the values, of any shape. Raises CalibrationError, leaving the sketch as it was, on NaN or inf."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = np.minimum.reduce(flat), np.maximum.reduce(flat)  # NaN propagates through both
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(f"values in [{low}, {high}] are not finite; look for NaN or inf in the data")
        self.minimum, self.maximum = min(self.minimum, float(low)), max(self.maximum, float(high))
        self.count += flat.size
        magnitude = float(max(abs(low), abs(high)))
        if magnitude == 0.0:
            self.zeros += flat.size
            return
        self._grow(_exponent_above(magnitude))
        zeros = add_counts(self.counts, flat, np.float32(1.0 / self.width), low, high)
        self.zeros += zeros
        self.counts[BINS - 1] -= zeros

    def saturating(self, low: float, high: float) -> int:
        """How many values a range [low, high] around zero cuts off, to the accuracy of one bin at either end."""
        edges = np.arange(BINS) * self.width  # of bin i, and of its mirror image, the one nearer to zero
        above, below = self.counts[BINS - 1 :], self.counts[BINS - 1 :: -1]  # (BINS,) each, outwards from bin 0
        cut = 0
        if high < self.maximum:
            cut += int(above[1:][edges[1:] >= high].sum())
        if low > self.minimum:
            cut += int(below[1:][edges[1:] >= -low].sum())
        return cut

    def merge(self, other: Sketch) -> None:
        """Adds what the other sketch counted."""
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self.count += other.count
        self.zeros += other.zeros
        if other.exponent is None:
            return
        grown = self._grow(other.exponent)
        self.counts += _coarser(other.counts, grown - other.exponent)

    def _grow(self, exponent: int) -> int:
        """Makes room for magnitudes below 2**exponent; returns the exponent that now holds."""
        if self.exponent is None:
            self.exponent = exponent
        elif exponent > self.exponent:
            self.counts = _coarser(self.counts, exponent - self.exponent)
            self.exponent = exponent
        return self.exponent


def _exponent_above(magnitude: float) -> int:
    """The least e such that magnitude < 2**e."""
    return max(math.frexp(magnitude)[1], _LEAST_EXPONENT)


def _coarser(counts: NDArray[np.int64], halvings: int) -> NDArray[np.int64]:
    """The same counts in bins that are 2**halvings times as wide."""
    if halvings == 0:
        return counts
    shift = min(halvings, BINS.bit_length())
    number = np.arange(1 - BINS, BINS)
    merged = np.sign(number) * (np.abs(number) >> shift)  # (2 * BINS - 1,)
    coarse = np.zeros_like(counts)
    np.add.at(coarse, merged + BINS - 1, counts)
    return coarse


@dataclass(frozen=True)
class Origin:
    """Which graph and which samples a file of sketches is of."""

    graph: str
    """SHA-256 of the prepared graph."""
    data: str
    """SHA-256 of all of the data, of which this may be a shard."""
    samples: int
    """In all of the data."""
    start: int
    stop: int
    """The first of the samples that these sketches are to count, and the one after the last."""
    shard: int
    of: int


@dataclass
class Sketches:
    """The statistics of a calibration pass: a sketch per tensor, and the number of images that were really used."""

    images: int = 0
    tensors: dict[str, Sketch] = field(default_factory=dict)
    origin: Origin | None = None

    def merge(self, other: Sketches) -> None:
        """Adds another shard's images. Raises CalibrationError where the shards measured different tensors."""
        if self.images and other.images and self.tensors.keys() != other.tensors.keys():
            odd = sorted(self.tensors.keys() ^ other.tensors.keys())
            raise CalibrationError(
                f"two sets of sketches measured different tensors ({odd[0]!r} is in one of them only); "
                "merge only what was collected from the same graph"
            )
        for name, sketch in other.tensors.items():
            self.tensors.setdefault(name, Sketch()).merge(sketch)
        self.images += other.images

    def save(self, path: Path) -> None:
        """Writes an .npz whose bytes depend on the statistics alone."""
        names = sorted(self.tensors)
        sketches = [self.tensors[name] for name in names]
        origin = asdict(self.origin) if self.origin is not None else None
        header = {"format": _FORMAT, "images": self.images, "tensors": names, "origin": origin}
        arrays: dict[str, NDArray[Any]] = {
            "header": np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), np.uint8),
            "minimum": np.array([sketch.minimum for sketch in sketches], np.float64),
            "maximum": np.array([sketch.maximum for sketch in sketches], np.float64),
            "count": np.array([sketch.count for sketch in sketches], np.int64),
            "zeros": np.array([sketch.zeros for sketch in sketches], np.int64),
            "has_exponent": np.array([sketch.exponent is not None for sketch in sketches], np.bool_),
            "exponent": np.array([sketch.exponent or 0 for sketch in sketches], np.int32),
            "counts": np.array([sketch.counts for sketch in sketches], np.int64).reshape(len(names), 2 * BINS - 1),
        }
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Sketches:
        """Reads what `save` wrote. Raises CalibrationError where the file is something else or damaged."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return _sketches_from_arrays({name: archive[name] for name in archive.files})
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise CalibrationError(f"{path}: not a file of sketches ({error}); run calibration again") from error


def _sketches_from_arrays(arrays: dict[str, NDArray[Any]]) -> Sketches:
    header = json.loads(arrays["header"].tobytes())
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']}, this version reads {_FORMAT}")
    tensors = {
        name: Sketch(
            minimum=float(arrays["minimum"][row]),
            maximum=float(arrays["maximum"][row]),
            count=int(arrays["count"][row]),
            zeros=int(arrays["zeros"][row]),
            exponent=int(arrays["exponent"][row]) if arrays["has_exponent"][row] else None,
            counts=arrays["counts"][row].astype(np.int64),
        )
        for row, name in enumerate(header["tensors"])
    }
    origin = Origin(**header["origin"]) if header["origin"] is not None else None
    return Sketches(int(header["images"]), tensors, origin)
