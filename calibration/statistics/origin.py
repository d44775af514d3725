"""Where sketches come from, so that shards merge only into what one pass over all of the data would have given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.errors import CalibrationError
from calibration.statistics import Origin, Sketches

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Shard:
    """One of `of` parts of the data, counted from 1."""

    number: int
    of: int

    @classmethod
    def from_text(cls, text: str) -> Shard:
        """Of `2/8`. Raises ValueError on anything else."""
        match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
        if match is None or int(match[1]) > int(match[2]):
            raise ValueError(f"shard {text!r} is none; write NUMBER/OF with NUMBER from 1 to OF, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def bounds(self, samples: int, images_a_run: int = 1) -> tuple[int, int]:
        """First sample and the one after the last; whole runs of the graph. Raises ValueError where it is empty."""
        runs = samples // images_a_run
        if self.of > runs:
            raise ValueError(f"{self.of} shards of {samples} samples: some would be empty; make fewer shards")
        start, stop = (images_a_run * (runs * number // self.of) for number in (self.number - 1, self.number))
        return start, stop


WHOLE = Shard(1, 1)


def graph_digest(prepared: ModelProto) -> str:
    """SHA-256 of the graph that is measured."""
    from calibration.external_data import digest

    return digest(prepared)


def merged_shards(paths: Sequence[Path], graph: str) -> Sketches:
    """What one pass over all of the data gives, from one file a shard.

    Raises CalibrationError naming the file where one is of another graph, other data or another division, is not
    finished, or is counted twice, and where a shard is missing.
    """
    total = Sketches()
    seen: dict[int, tuple[Path, Origin]] = {}
    for path in paths:
        sketches = Sketches.load(path)
        origin = _checked(path, sketches, graph)
        first_path, first = next(iter(seen.values()), (path, origin))
        if (origin.data, origin.samples, origin.of) != (first.data, first.samples, first.of):
            raise CalibrationError(
                f"{path}: is shard {origin.shard}/{origin.of} of {origin.samples} samples and {first_path} is "
                f"{first.shard}/{first.of} of {first.samples}, or their data differ; divide the same data once"
            )
        if origin.channels != first.channels:
            raise CalibrationError(
                f"{path if first.channels else first_path}: has no extremes of channels and another shard has; "
                "measure all of them with --channel-extremes, or none"
            )
        if origin.shard in seen:
            raise CalibrationError(
                f"{path}: shard {origin.shard}/{origin.of} is in {seen[origin.shard][0]} already; give each shard once"
            )
        seen[origin.shard] = (path, origin)
        total.merge(sketches)
    if not seen:
        raise CalibrationError("no file of sketches was given")
    _refuse_gaps({shard: origin for shard, (_, origin) in seen.items()})
    _, any_origin = next(iter(seen.values()))
    if any_origin.of == 1:
        total.origin = any_origin
        return total
    total.origin = Origin(
        graph, any_origin.data, any_origin.samples, 0, any_origin.samples, 1, 1, channels=any_origin.channels
    )
    return total


def _checked(path: Path, sketches: Sketches, graph: str) -> Origin:
    origin = sketches.origin
    if origin is None:
        raise CalibrationError(f"{path}: does not say which graph and data it is of; run edgestill calibrate again")
    if origin.graph != graph:
        raise CalibrationError(f"{path}: was measured on another graph; calibrate the one that is quantized")
    if sketches.images != origin.stop - origin.start:
        raise CalibrationError(
            f"{path}: holds {sketches.images} of its {origin.stop - origin.start} samples; "
            "run the same edgestill calibrate again to finish it"
        )
    return origin


def _refuse_gaps(seen: dict[int, Origin]) -> None:
    of = next(iter(seen.values())).of
    if missing := [str(number) for number in range(1, of + 1) if number not in seen]:
        raise CalibrationError(f"of {of} shards {', '.join(missing)} is missing; give all of them")
