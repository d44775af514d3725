"""What an image must not bring, and the error that names it and the tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.errors import PoisonedData
from calibration.extremes import Image

LARGEST = 1e18
"""Its square is the largest that a float32 holds: beyond it a product overflows, whatever the scale."""


def poison(tensor: str, values: NDArray[np.float32], images: Sequence[Image]) -> PoisonedData:
    """The error that names the first bad image; where a tensor's rows are not images, all that ran together."""
    rows = values.shape[0] if values.ndim else 0
    if rows and rows % len(images) == 0:
        per_image = values.reshape(len(images), -1)
        bad = int(np.flatnonzero(_is_poison(per_image).any(axis=1))[0])
        where, found = named(images[bad : bad + 1]), per_image[bad]
    else:
        where, found = f"one of {named(images)}", values.reshape(-1)
    value = found[_is_poison(found)][0]
    return PoisonedData(f"{where} makes tensor {tensor!r} hold {value}; take the image out, or mend it or the network")


def named(images: Sequence[Image]) -> str:
    """Such as `image 'cat.png'`."""
    first, last = images[0].name, images[-1].name
    return f"image {first!r}" if len(images) == 1 else f"the images {first!r} to {last!r}"


def _is_poison(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return ~(np.abs(values) <= LARGEST)  # NaN is in no order
