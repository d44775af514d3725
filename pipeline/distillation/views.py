"""Which augmented view of the training samples an epoch sees, and the batches that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.distillation.augment import AffinePlan, Augment

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Views:
    """A plan for each view; epoch e sees view e, or e modulo the number of views where they are shared."""

    def __init__(self, augment: Augment, seed: int, samples: int, shared: int | None = None) -> None:
        self._augment, self._seed, self._samples = augment, seed, samples
        # Without augmentation there is but one view.
        self._shared = shared if augment != Augment() else 1
        self._plan: tuple[int, AffinePlan] | None = None

    def count(self, epochs: int) -> int:
        """How many different views so many epochs see."""
        return epochs if self._shared is None else min(self._shared, epochs)

    def of_epoch(self, epoch: int) -> int:
        """The view of an epoch, both counted from 0."""
        return epoch if self._shared is None else epoch % self._shared

    def plan(self, view: int) -> AffinePlan:
        """What is done to each sample in a view; the same whenever it is asked for."""
        if self._plan is None or self._plan[0] != view:
            self._plan = view, AffinePlan(self._augment, self._seed, view, self._samples)
        return self._plan[1]


@dataclass(frozen=True)
class Batch:
    """Some samples of the training split, as the networks take them."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor
    """(batch,) int64: which of the split they are."""


class Batches:
    """The training split, batch by batch, on a device."""

    def __init__(self, dataset: Dataset, views: Views, dense: bool, device: torch.device, dtype: torch.dtype) -> None:
        self._dataset, self._views, self._dense = dataset, views, dense
        self._device, self._dtype = device, dtype
        self._indices = dataset.indices("train")

    def __len__(self) -> int:
        return len(self._indices)

    def of(self, rows: NDArray[np.int64], view: int) -> Batch:
        """The given rows of the split in the given view."""
        import torch

        indices = self._indices[rows]
        plan = self._views.plan(view)
        inputs = [self._placed(each) for each in self._dataset.inputs(indices).values()]
        labels = torch.from_numpy(self._dataset.labels(indices)).to(self._device)
        if self._dataset.interface.is_one_image():
            inputs = [plan.apply(inputs[0], rows)]
            labels = plan.apply_labels(labels, rows) if self._dense else labels
        return Batch(tuple(inputs), labels, torch.from_numpy(rows).to(self._device))

    def _placed(self, array: NDArray[np.generic]) -> Tensor:
        import torch

        tensor = torch.from_numpy(array).to(self._device, non_blocking=True)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor
