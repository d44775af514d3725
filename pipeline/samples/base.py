"""The contract of a source of samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from pipeline.data.splits import SplitName

Raw = NDArray[Any] | Mapping[str, NDArray[Any]]
"""One image, or the arrays of one sample by input name."""
Axes = Mapping[str, tuple[str, ...]]
"""Names of the axes after the samples, by input name in the order in which a network takes the inputs."""


class Samples(ABC):
    """Raw samples and labels by index."""

    labels: NDArray[Any]
    """As the task stores them, samples first."""
    classes: tuple[str, ...]
    axes: Axes = MappingProxyType({})
    """Of inputs that are fed as they are; empty where the samples are images, which are preprocessed."""
    splits: tuple[SplitName, ...] | None = None
    """Where the data is split already: one name a sample."""
    left_out: tuple[str, ...] = ()
    """Files beside the images that were not taken for any."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def noun(self) -> str:
        """What a message calls one of them."""
        return "sample" if self.axes else "image"

    @abstractmethod
    def raw(self, index: int) -> Raw:
        """One raw sample; raises DataRejected where it cannot be read."""

    @abstractmethod
    def id(self, index: int) -> str:
        """What the user knows the sample by."""
