"""Samples that fit into memory: images, or arrays that are fed as they are."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.samples.array_checks import check_images, checked_inputs, checked_splits
from pipeline.samples.base import Axes, Raw, Samples
from pipeline.tasks.task import Task

IMAGES = "images"
LABELS = "labels"
BESIDE = (LABELS, "classes", "splits")
"""Arrays beside the inputs."""


@final
class ArraySamples(Samples):
    """Arrays by name, samples first: `images` alone, or with `axes` what is fed as it is.

    `arrays` holds `labels` too, and where they are there `classes` and `splits`.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], where: str, task: Task, axes: Axes | None = None) -> None:
        self.axes = axes or {}
        if self.axes:
            self._inputs = checked_inputs(arrays, self.axes, where)
            self._images = None
        else:
            self._inputs, self._images = {}, arrays[IMAGES]
            check_images(self._images, where)
        count = len(arrays[next(iter(self.axes), IMAGES)])
        self.labels, self.classes = task.checked_labels(arrays[LABELS], arrays.get("classes"), count, where)
        task.check_labels_fit(self.labels, self._inputs or {IMAGES: arrays[IMAGES]}, where)
        self.splits = checked_splits(arrays["splits"], count, where) if "splits" in arrays else None

    def raw(self, index: int) -> Raw:
        if self._images is not None:
            image: NDArray[Any] = self._images[index]
            return image
        return {name: array[index] for name, array in self._inputs.items()}

    def id(self, index: int) -> str:
        return str(index)


def npz(file: Path, task: Task, axes: Axes | None = None) -> Samples:
    """Arrays `images`, or those that `axes` names, and `labels`; `classes` and `splits` where they are there.

    Never unpickles.
    """
    names = (*(axes or (IMAGES,)), LABELS)
    save = f"save it with numpy.savez(file, {', '.join(f'{name}=...' for name in names)})"
    if not zipfile.is_zipfile(file):
        raise DataRejected(f"{file}: is no .npz; {save}")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in dict.fromkeys((*names, *BESIDE)) if name in archive.files}
            found = ", ".join(archive.files) or "none"
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataRejected(f"{file}: is not a readable .npz of plain arrays ({error}); save it again") from error
    if missing := [name for name in names if name not in arrays]:
        hint = "" if axes or missing[0] != IMAGES else ", or name its arrays in [data] inputs"
        raise DataRejected(f"{file}: has no array '{missing[0]}' (found {found}); {save}{hint}")
    return ArraySamples(arrays, str(file), task, axes)
