"""What a run of the graph showed of all measured tensors, and counting several runs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import final

import numpy as np

from calibration.statistics import BINS, Sketches
from calibration.statistics.channel_extremes import ChannelExtremes
from calibration.statistics.extremes import Image
from calibration.statistics.summary import Summary


@final
@dataclass(frozen=True)
class Seen:
    """Of the images of one run, by tensor; all of it is finite."""

    images: tuple[Image, ...]
    summaries: dict[str, Summary]
    extremes: dict[str, tuple[tuple[Image, float, float], ...]]
    """Where the images that ran together are told apart; else the summary's are those of the first image."""
    channels: dict[str, ChannelExtremes]

    @property
    def first(self) -> int:
        """The number of the first image in all of the data."""
        return self.images[0].index

    @property
    def values(self) -> int:
        """How many are held, to be counted."""
        return sum(summary.counted.size for summary in self.summaries.values())


def count(runs: Sequence[Seen], sketches: Sketches, locks: Mapping[str, Lock], group: int) -> None:
    """Adds runs of images of one group to the sketches, one tensor after another, of which each has a lock."""
    scratch = np.zeros(2 * BINS - 1, np.int64)
    for name, lock in locks.items():
        summaries = [run.summaries[name] for run in runs if name in run.summaries]
        with lock:
            sketch = sketches.tensors[name]
            if summaries:
                sketch.add(summaries, group, scratch)
            for run in runs:
                for image, low, high in _extremes(run, name):
                    sketch.note(image, low, high)
                sketch.add_channels(run.channels.get(name))


def _extremes(run: Seen, name: str) -> Sequence[tuple[Image, float, float]]:
    if name in run.extremes:
        return run.extremes[name]
    summary = run.summaries.get(name)
    return () if summary is None else ((run.images[0], summary.low, summary.high),)
