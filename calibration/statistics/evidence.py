"""What a range rests on: how many values, what it cuts off, and how far it hangs on which images came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from calibration.methods.method_text import method_from_text
from calibration.ranges import Ranges, write_json
from calibration.statistics import Sketches
from calibration.statistics.channel_extremes import ChannelExtremes
from calibration.statistics.confidence import Alone, Confidence, Interval, alone_in, confidence_of, interval_of


@dataclass(frozen=True)
class TensorEvidence:
    """Of one tensor."""

    values: int
    counted: int
    """Of the values, those that were looked at one by one; the extremes are those of all."""
    zeros: int
    masked: int
    """Values that a mask takes out of a softmax, -inf among them; no other value that is not finite gets through."""
    saturating: int
    """Values outside the range."""
    method: str
    interval: Interval | None
    """None where the images are too few."""
    alone: Alone | None
    """The image that sets the range alone, where one does."""
    channels: ChannelExtremes | None = None
    """Where they were asked for."""

    def to_json(self) -> dict[str, Any]:
        """An entry of ranges.json, beside the range."""
        interval, alone = self.interval, self.alone
        channels = {} if self.channels is None else {"channels": self.channels.to_json()}
        return {
            **channels,
            "method": self.method,
            "low_interval": None if interval is None else list(interval.low),
            "high_interval": None if interval is None else list(interval.high),
            "values": self.values,
            "counted": self.counted,
            "zeros": self.zeros,
            "masked": self.masked,
            "saturating": self.saturating,
            "set_alone_by": None
            if alone is None
            else {
                "image": alone.image,
                "narrower_without": alone.share,
                "reaches": alone.reaches,
                "others_reach": alone.others,
            },
        }


@dataclass(frozen=True)
class Evidence:
    """Of all ranges of a calibration."""

    ranges: Ranges
    tensors: Mapping[str, TensorEvidence]
    samples: int
    """That there were to calibrate with."""
    until_tight: bool
    """Whether the ranges decided how many of them were gone through."""

    @cached_property
    def confidence(self) -> Confidence | None:
        """None where the images are too few to say."""
        return confidence_of({name: each.interval for name, each in self.tensors.items()}, self.ranges.tensors)

    @property
    def alone(self) -> Sequence[Alone]:
        """Images that set a range alone, the one first whose range would shrink most."""
        found = [each.alone for each in self.tensors.values() if each.alone is not None]
        return sorted(found, key=lambda each: (-each.share, each.tensor))

    def to_json(self) -> dict[str, Any]:
        """What ranges.json holds."""
        tensors = {name: each.to_json() for name, each in self.tensors.items()}
        confidence = None if self.confidence is None else self.confidence.to_json()
        pass_ = {"samples": self.samples, "until_tight": self.until_tight}
        return self.ranges.to_json(tensors, {**pass_, "confidence": confidence})

    def save(self, path: Path) -> None:
        """Writes ranges.json, which `Ranges.load` reads; its bytes depend on ranges and sketches alone."""
        write_json(self.to_json(), path)


def evidence_of(ranges: Ranges, sketches: Sketches) -> Evidence:
    """With the sketches that the ranges were chosen from."""
    origin = sketches.origin
    return Evidence(
        ranges,
        {name: _of_tensor(name, ranges, sketches) for name in ranges.tensors},
        sketches.images if origin is None else origin.samples,
        origin is not None and origin.until_tight is not None,
    )


def _of_tensor(tensor: str, ranges: Ranges, sketches: Sketches) -> TensorEvidence:
    sketch, chosen, method = sketches.tensors[tensor], ranges.of(tensor), ranges.method_of(tensor)
    return TensorEvidence(
        values=sketch.count,
        counted=sketch.counted,
        zeros=sketch.zeros,
        masked=sketch.masked,
        saturating=sketch.saturating(chosen.low, chosen.high),
        method=method,
        interval=interval_of(sketch, method_from_text(method), chosen),
        alone=alone_in(tensor, sketch, chosen),
        channels=sketch.channels,
    )
