"""Statistics of activations in one pass and flat memory: a sketch per tensor, which merge exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from calibration.errors import CalibrationError
from calibration.statistics.binning import BINS
from calibration.statistics.groups import size_for
from calibration.statistics.sketch import Sketch

__all__ = ["BINS", "Origin", "Sketch", "Sketches"]


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
    until_tight: str | None = None
    """The method whose ranges were to be tight, where that decided how many samples were gone through."""
    channels: bool = False
    """Whether the extremes of each channel were asked for."""


@dataclass
class Sketches:
    """The statistics of a calibration pass: a sketch per tensor, and the number of images that were really used."""

    images: int = 0
    tensors: dict[str, Sketch] = field(default_factory=dict)
    origin: Origin | None = None
    group_size: int = 1
    """Images that each of the sketches' groups holds."""

    def merge(self, other: Sketches) -> None:
        """Adds another shard's images. Raises CalibrationError where the shards measured different tensors."""
        if self.images and other.images and self.tensors.keys() != other.tensors.keys():
            odd = sorted(self.tensors.keys() ^ other.tensors.keys())
            raise CalibrationError(
                f"two sets of sketches measured different tensors ({odd[0]!r} is in one of them only); "
                "merge only what was collected from the same graph"
            )
        self._group_by(max(self.group_size, other.group_size))
        halvings = (self.group_size // other.group_size).bit_length() - 1
        for name, sketch in other.tensors.items():
            self.tensors.setdefault(name, Sketch()).merge(sketch, halvings=halvings)
        self.images += other.images

    def group_of(self, image: int) -> int:
        """The number of the group that an image belongs to."""
        return image // self.group_size

    def make_room(self, images: int) -> None:
        """So that the first so many images of the data fit into `MOST_GROUPS` groups."""
        self._group_by(max(self.group_size, size_for(images)))

    def _group_by(self, size: int) -> None:
        if size > self.group_size:
            for sketch in self.tensors.values():
                sketch.halve_groups((size // self.group_size).bit_length() - 1)
            self.group_size = size

    def save(self, path: Path) -> None:
        """Writes an .npz whose bytes depend on the statistics alone."""
        from calibration.statistics.sketch_file import write

        write(self, path)

    @classmethod
    def load(cls, path: Path) -> Sketches:
        """Reads what `save` wrote. Raises CalibrationError where the file is something else or damaged."""
        from calibration.statistics.sketch_file import read

        return read(path)
