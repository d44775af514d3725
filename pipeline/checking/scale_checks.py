"""Preprocessing that contradicts the pixels: mean and deviation of one scale, pixels of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocess import Preprocess
from pipeline.errors import DataRejected

_BRIGHT = 10.0
"""Pixels of 0 to 1 do not come near it, pixels of 0 to 255 are beyond it but in the darkest images."""
_WHITE = 255.0


def check_scale(preprocess: Preprocess, images: NDArray[np.float32], names: Sequence[str]) -> None:
    """Raises DataRejected where mean and std are certainly those of pixels of another scale.

    They are of pixels from 0 to 1 where none is above 1, and of pixels from 0 to 255 where a mean is above 2.

    images: (images, channels, height, width) after preprocessing
    """
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    if not mean.any() and (std == 1).all():
        return
    written = f"mean = {_listed(preprocess.mean)} and std = {_listed(preprocess.std)}"
    if max(mean.max(), std.max()) <= 1 and mean.min() >= 0:
        peaks = (images.max(axis=(2, 3)) * std + mean).max(axis=1)  # (images,)
        if (brightest := int(peaks.argmax())) >= 0 and peaks[brightest] > _BRIGHT:
            raise DataRejected(
                f"image {names[brightest]!r} has pixels up to {peaks[brightest]:.4g} after scale "
                f"{preprocess.scale:g}, but {written} are those of pixels from 0 to 1; "
                f"set scale = {1 / _WHITE:.6g} in --preprocess, or mean and std of these pixels"
            )
    if mean.max() > 2 and preprocess.scale * _WHITE <= 2:
        raise DataRejected(
            f"image {names[0]!r} has pixels below {preprocess.scale * _WHITE:.4g} after scale {preprocess.scale:g}, "
            f"but {written} are those of pixels from 0 to 255; set scale = 1 in --preprocess, or mean and std of 0 to 1"
        )


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
