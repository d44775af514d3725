"""Training, calibration and test batches from ONE preprocessing function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Splits
from pipeline.context import Context
from pipeline.data.content_digest import content_digest, recorded_label
from pipeline.data.prepared import prepared, prepared_labels
from pipeline.data.preprocess import Preprocess
from pipeline.data.source import Source
from pipeline.data.splits import SplitName
from pipeline.errors import DataRejected, IntegrityError
from pipeline.models.interface import IMAGE, InputSpec, Interface
from pipeline.samples import Raw, Samples
from pipeline.tasks.task import interface_of

# Preprocessed inputs are kept in memory up to this size; beyond it they are made anew for each batch.
KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Record:
    """One sample and what it is used for."""

    id: str
    sha256: str
    """Of the raw sample, `content_digest`."""
    label: int | str
    """The class, or the `content_digest` of a label that is no single whole number."""
    split: SplitName


@dataclass
class Dataset:
    """Preprocessed inputs by index. Each raw sample is verified against its digest when it is read."""

    samples: Samples
    records: Sequence[Record]
    interface: Interface
    preprocess: Preprocess | None
    """Of images; None where arrays are fed as they are."""
    dense: bool = False
    """Whether a label is an image, which is resized and cropped with the input."""
    _inputs: dict[str, NDArray[Any]] | None = field(init=False)
    _bytes: dict[int, NDArray[np.uint8]] = field(init=False, default_factory=dict)
    _read: NDArray[np.bool_] = field(init=False)
    _labels: NDArray[Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        count, specs = len(self.records), self.interface.inputs
        needed = sum(np.dtype(spec.dtype).itemsize * int(np.prod(spec.shape)) for spec in specs) * count
        # Memory is taken where it is first written, not here.
        self._inputs = (
            {spec.name: np.empty((count, *spec.shape), spec.dtype) for spec in specs} if needed <= KEPT_BYTES else None
        )
        self._read = np.zeros(count, np.bool_)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.samples.classes

    def indices(self, split: SplitName) -> NDArray[np.int64]:
        """Of a split's samples, in the order of the source."""
        return np.asarray([index for index, record in enumerate(self.records) if record.split == split], np.int64)

    def inputs(self, indices: Sequence[int] | NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """By name in the interface's order, each (len(indices), *shape)."""
        picked = np.asarray(indices, np.int64)
        if self._inputs is None:
            samples = [self._sample(index) for index in picked.tolist()]
            return {name: np.stack([sample[name] for sample in samples]) for name in self.interface.input_names}
        for index in picked[~self._read[picked]].tolist():
            for name, array in self._sample(index).items():
                self._inputs[name][index] = array
            self._read[index] = True
        return {name: array[picked] for name, array in self._inputs.items()}

    def normalized(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
        """What the network takes for images that `bytes_of` gave."""
        if self.preprocess is None:
            raise DataRejected("only images are normalized")
        return {name: np.stack([self.preprocess.normalized_bytes(each) for each in images[name]]) for name in images}

    def bytes_of(self, indices: Sequence[int] | NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
        """Images as an engine of uint8-nhwc input takes them: (len(indices), height, width, channels).

        Raises DataRejected where the data is no images, or their values are no bytes.
        """
        return {IMAGE: np.stack([self._image_bytes(index) for index in np.asarray(indices, np.int64).tolist()])}

    def labels(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """(len(indices), ...) as the task stores them."""
        if self._labels is None:
            self._labels = self._verified_labels()
        found: NDArray[Any] = self._labels[np.asarray(indices, np.int64)]
        return found

    def ids(self, indices: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """What the user knows the samples by."""
        return [self.records[index].id for index in indices]

    def batches(self, split: SplitName, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Indices of a split in order; the last batch may be smaller."""
        indices = self.indices(split)
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]

    def _sample(self, index: int) -> dict[str, NDArray[Any]]:
        return prepared(self._verified(index), self.preprocess, self._called(index))

    def _image_bytes(self, index: int) -> NDArray[np.uint8]:
        if index in self._bytes:
            return self._bytes[index]
        raw = self._verified(index)
        if self.preprocess is None or isinstance(raw, Mapping):
            raise DataRejected(f"{self._called(index)} is no image, and uint8-nhwc input is for images")
        image = self.preprocess.sized_bytes(raw, self._called(index))
        if self._inputs is not None:
            self._bytes[index] = image
        return image

    def _verified(self, index: int) -> Raw:
        raw = self.samples.raw(index)
        if content_digest(raw) != self.records[index].sha256:
            raise self._changed(self._called(index))
        return raw

    def _called(self, index: int) -> str:
        return f"{self.samples.noun} {self.records[index].id}"

    def _verified_labels(self) -> NDArray[Any]:
        for label, record in zip(self.samples.labels, self.records, strict=True):
            if recorded_label(label) != record.label:
                raise self._changed(f"the label of {self.samples.noun} {record.id}")
        return prepared_labels(self.samples.labels, self.preprocess if self.dense else None)

    def _changed(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"{what} is not the one that was split: the data changed while it was used, "
            f"or a factory makes other {self.samples.noun}s each time; run again from the data stage"
        )


def read_interface(splits: Splits, context: Context) -> Interface:
    """What a network must take and give, from the artifact alone."""
    specs = tuple(
        InputSpec(each["name"], each["dtype"], tuple(each["shape"]), tuple(each["axes"]))
        for each in splits.json("inputs.json")
    )
    return interface_of(context.task, specs, len(splits.json("classes.json")))


def open_dataset(splits: Splits, context: Context) -> Dataset:
    """The samples that a `data` stage split."""
    interface, document = read_interface(splits, context), splits.json("preprocess.json")
    axes = None if document["preprocess"] else {spec.name: spec.axes for spec in interface.inputs}
    source = Source.model_validate(splits.json("source.json"))
    samples = source.open(context.recipe_folder, context.task, axes)
    records = [Record(**record) for record in splits.json("splits.json")]
    if len(samples) != len(records):
        raise IntegrityError(
            f"the data holds {len(samples)} samples, {len(records)} were split; run again from the data stage"
        )
    if list(samples.classes) != splits.json("classes.json"):
        raise IntegrityError("the data names other classes than those that were split; run again from the data stage")
    preprocess = None if axes else Preprocess.model_validate(document["preprocess"])
    return Dataset(samples, records, interface, preprocess, context.task.dense)
