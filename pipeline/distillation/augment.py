"""Affine changes of training images by a plan that the seed fixes for each (sample, epoch)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.process.randomness import Stream

if TYPE_CHECKING:
    from torch import Tensor


def epoch_order(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """In which order an epoch visits its samples; the same for the same seed and epoch."""
    return _generator(seed, epoch, Stream.ORDER).permutation(samples)


def _generator(seed: int, epoch: int, stream: Stream) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, epoch, 0]))


class Augment(BaseModel):
    """Random affine changes of training images, drawn anew for each (sample, epoch) from the seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Most, as a share of height and width."""
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Most change of scale, as a share."""


class AffinePlan:
    """Row i holds what is done to sample i in this epoch, whatever batch it falls into."""

    def __init__(self, augment: Augment, seed: int, epoch: int, samples: int) -> None:
        draws = _generator(seed, epoch, Stream.AUGMENT).uniform(-1.0, 1.0, size=(samples, 4))
        angle = np.deg2rad(augment.rotate_degrees) * draws[:, 0]
        scale = 1.0 + augment.zoom * draws[:, 1]
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        # affine_grid's units: the image spans -1 to 1, so a share of the width is twice that.
        shift = 2.0 * augment.translate * draws[:, 2:]
        upper = np.stack([cosine, -sine, shift[:, 0]], axis=1)
        lower = np.stack([sine, cosine, shift[:, 1]], axis=1)
        self._theta = np.stack([upper, lower], axis=1).astype(np.float32)  # (samples, 2, 3)
        self._changes = augment != Augment()

    def apply(self, images: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """(batch, channels, h, w) of the given rows, changed; what enters from outside takes the edge's value."""
        return self._sampled(images, rows, "bilinear") if self._changes else images

    def apply_labels(self, labels: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """(batch, h, w) labels of the same images, each pixel with the label of the nearest one."""
        if not self._changes:
            return labels
        # Every class number that fits into 52 bits is exact in float64.
        found = self._sampled(labels.double()[:, None], rows, "nearest")[:, 0]
        return found.to(labels.dtype)

    def _sampled(self, images: Tensor, rows: NDArray[np.int64], mode: str) -> Tensor:
        import torch
        from torch.nn.functional import affine_grid, grid_sample

        theta = torch.from_numpy(self._theta[rows]).to(images.device, images.dtype)
        grid = affine_grid(theta, list(images.shape), align_corners=False)
        return grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
