"""One pass over all samples: each is decoded, checked, hashed and measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.input_statistics import InputStatistics
from pipeline.checking.near_duplicates import Thumbnails
from pipeline.context import Context
from pipeline.data.content_digest import content_digest
from pipeline.data.prepared import prepared
from pipeline.data.preprocess import Preprocess
from pipeline.errors import DataRejected
from pipeline.models.interface import IMAGE, IMAGE_AXES, MASK, InputSpec
from pipeline.samples import Raw, Samples

MOST_FAULTS = 10
"""Samples that cannot be used, after which reading stops."""


class Reading:
    """What the pass over the samples leaves; memory grows with their number and not with their size."""

    def __init__(self, samples: Samples, preprocess: Preprocess | None, context: Context) -> None:
        self.preprocess = preprocess
        self.digests: list[str] = []
        self.statistics: tuple[InputStatistics, ...] = ()
        """Of each input, in the order in which a network takes them; empty before the first sample."""
        self.thumbnails = Thumbnails(len(samples))
        self._samples, self._context = samples, context
        self._faults: list[tuple[str, str]] = []

    def run(self) -> None:
        """Raises DataRejected that names the first samples which cannot be used."""
        _check_count_and_labels(self._samples)
        with self._context.progress.phase(f"reading {self._samples.noun}s", len(self._samples)) as phase:
            for index in range(len(self._samples)):
                self._context.cancellation.check()
                try:
                    self._add(index)
                except DataRejected as error:
                    self._faults.append((self._samples.id(index), str(error)))
                    if len(self._faults) == MOST_FAULTS:
                        break
                phase.advance()
        self._raise_faults()

    def _add(self, index: int) -> None:
        raw, name = self._samples.raw(index), f"[data] {self._samples.noun} {self._samples.id(index)}"
        if self.preprocess is not None and not isinstance(raw, Mapping):
            self.preprocess = self.preprocess.for_images_like(raw, name)
        inputs = prepared(raw, self.preprocess, name)
        if self._context.task.dense:
            self._check_label_size(index, raw, name)
        if not self.statistics:
            self.statistics = self._opened(inputs)
        for each in self.statistics:
            if inputs[each.spec.name].shape != each.spec.shape:
                raise DataRejected(
                    f"{name} has shape {inputs[each.spec.name].shape} after preprocessing, the ones before it "
                    f"{each.spec.shape}; set [data] preprocess.resize, or resize and crop"
                )
            each.add(index, inputs)
        if IMAGE in inputs and self.preprocess is not None:
            self.thumbnails.add(index, inputs[IMAGE])
        self.digests.append(content_digest(raw))

    def _opened(self, inputs: dict[str, NDArray[Any]]) -> tuple[InputStatistics, ...]:
        axes = self._samples.axes or {IMAGE: IMAGE_AXES}
        specs = {name: InputSpec(name, array.dtype.name, array.shape, axes[name]) for name, array in inputs.items()}
        return tuple(InputStatistics(spec, len(self._samples), specs.get(MASK)) for spec in specs.values())

    def _check_label_size(self, index: int, raw: Raw, name: str) -> None:
        label = np.shape(self._samples.labels[index])
        if isinstance(raw, Mapping):
            size = np.shape(next(iter(raw.values())))[-2:]
        else:
            size = (self.preprocess or Preprocess()).size_of(raw)
        if label[-2:] != size:
            raise DataRejected(f"{name} is {_by(size)} and its label {_by(label)}; give each pixel a label")

    def _raise_faults(self) -> None:
        if not self._faults:
            return
        (_, message), *others = self._faults
        # Where none could be used, it is not the samples that are wrong, and one message says what is.
        if others and self.digests:
            shown = ", ".join(name for name, _ in others[:3])
            count = f"at least {len(others)}" if len(self._faults) == MOST_FAULTS else str(len(others))
            message += f" ({count} more cannot be used: {shown}{', …' if len(others) > 3 else ''})"
        raise DataRejected(message)


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _check_count_and_labels(samples: Samples) -> None:
    if len(samples) < 2:
        raise DataRejected(
            f"[data] holds {len(samples)} samples; training, validation, calibration and test each need some"
        )
    if (samples.labels == samples.labels[:1]).all():
        raise DataRejected(f"[data] every {samples.noun} has the same label; there is nothing to learn")
