"""Training, calibration and test batches from ONE preprocessing function."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.artifact import Splits
from pipeline.context import Context
from pipeline.errors import IntegrityError, RecipeError
from pipeline.preprocess import Preprocess
from pipeline.samples import ImageFolder, Samples, digits, digits_file, from_factory, npz
from pipeline.splits import SplitName
from pipeline.userfile import split_specification, user_file

# Preprocessed images are kept in memory up to this size; beyond it they are made anew for each batch.
KEPT_BYTES = 1 << 30


Text = Annotated[str, Field(min_length=1)]


class Source(BaseModel):
    """Where the images come from: exactly one of the four."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["digits"] | None = None
    npz: Text | None = None
    folder: Text | None = None
    factory: Text | None = None

    @field_validator("factory")
    @classmethod
    def _is_specification(cls, value: str | None) -> str | None:
        if value is not None:
            split_specification(value)
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        given = [name for name in Source.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of source, npz, folder, factory; found {', '.join(given) or 'none'}")
        return self

    def file(self, recipe_folder: Path) -> tuple[str, Path]:
        """The user's file or folder, by its name in the recipe; raises RecipeError where it is not there."""
        if self.factory is not None:
            return self.factory, user_file(self.factory, recipe_folder, "factory")
        if self.source is not None:
            return self.source, digits_file()
        name = self.npz or self.folder or ""
        path = recipe_folder / name
        if not (path.is_file() if self.npz else path.is_dir()):
            key, kind = ("npz", "file") if self.npz else ("folder", "folder")
            raise RecipeError(f"{key} '{name}': there is no {kind} {path}; paths are relative to the recipe")
        return name, path

    def open(self, recipe_folder: Path) -> Samples:
        """The raw samples."""
        name, path = self.file(recipe_folder)
        if self.factory is not None:
            return from_factory(name, recipe_folder)
        if self.source is not None:
            return digits()
        return npz(path) if self.npz else ImageFolder(path)


@dataclass(frozen=True)
class Record:
    """One sample and what it is used for."""

    id: str
    sha256: str
    """Of shape, dtype and pixels of the raw image."""
    label: int
    split: SplitName


@dataclass
class Dataset:
    """Preprocessed images by index. Each raw image is verified against its digest when it is read."""

    samples: Samples
    records: Sequence[Record]
    preprocess: Preprocess
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    """(channels, height, width) of a preprocessed image."""
    _kept: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def indices(self, split: SplitName) -> NDArray[np.int64]:
        """Of a split's samples, in the order of the source."""
        return np.asarray([index for index, record in enumerate(self.records) if record.split == split], np.int64)

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """(len(indices), channels, height, width)."""
        return np.stack([self._image(int(index)) for index in indices])

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(len(indices),)."""
        return np.asarray([self.records[index].label for index in indices], np.int64)

    def ids(self, indices: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """What the user knows the samples by."""
        return [self.records[index].id for index in indices]

    def batches(self, split: SplitName, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Indices of a split in order; the last batch may be smaller."""
        indices = self.indices(split)
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]

    def _image(self, index: int) -> NDArray[np.float32]:
        if index in self._kept:
            return self._kept[index]
        raw, record = self.samples.raw(index), self.records[index]
        if content_digest(raw) != record.sha256:
            raise IntegrityError(
                f"image {record.id} is not the one that was split: the data changed while it was used, "
                "or a factory makes other images each time; run again from the data stage"
            )
        image = self.preprocess.apply(raw, f"image {record.id}")
        if len(self.records) * image.nbytes <= KEPT_BYTES:
            self._kept[index] = image
        return image


def network_interface(splits: Splits, context: Context) -> tuple[tuple[int, int, int], int]:
    """(channels, height, width) that a network takes, and the length of its output for one image."""
    channels, height, width = splits.json("preprocess.json")["shape"]
    return (channels, height, width), context.task.output_size(len(splits.json("classes.json")))


def open_dataset(splits: Splits, recipe_folder: Path) -> Dataset:
    """The images that a `data` stage split."""
    samples = Source.model_validate(splits.json("source.json")).open(recipe_folder)
    records = [Record(**record) for record in splits.json("splits.json")]
    if len(samples) != len(records):
        raise IntegrityError(
            f"the data holds {len(samples)} samples, {len(records)} were split; run again from the data stage"
        )
    document = splits.json("preprocess.json")
    channels, height, width = document["shape"]
    return Dataset(
        samples=samples,
        records=records,
        preprocess=Preprocess.model_validate(document["preprocess"]),
        classes=tuple(splits.json("classes.json")),
        shape=(channels, height, width),
    )


def content_digest(raw: NDArray[Any]) -> str:
    """SHA-256 of an image's shape, dtype and pixels: equal images have equal digests whatever their file."""
    digest = hashlib.sha256(f"{raw.shape} {raw.dtype.str} ".encode())
    digest.update(np.ascontiguousarray(raw).tobytes())
    return digest.hexdigest()
