"""What an image must not bring, and the error that names it and the tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from calibration.errors import PoisonedData
from calibration.statistics.extremes import Image

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


def refuse_blank(tensor: str, values: NDArray[Any], images: Sequence[Image]) -> None:
    """Raises PoisonedData where an image of two dimensions and channels has one value throughout.

    It says nothing of any range, and is what a failed reader or a black frame leaves.
    """
    if values.ndim != 4 or values.shape[0] != len(images):
        return
    for image, row in zip(images, values.reshape(len(images), -1), strict=True):
        # Most images differ within their first values: the rest is looked at where they do not.
        if row.size > 1 and (row[:_GLANCE] == row[0]).all() and (row == row[0]).all():
            raise PoisonedData(
                f"{named([image])} is blank: tensor {tensor!r} is {row[0]} throughout; take the image out"
            )


_GLANCE = 64


@final
class Repeats:
    """Whether any input differs from image to image: one that is remembered is compared with each that comes."""

    def __init__(self) -> None:
        self._first: dict[str, NDArray[Any]] = {}
        self._images = 0
        self._differs = False

    def see(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """All inputs of some images, which lie along the first axis but where all images share a value."""
        if self._differs:
            return
        of_images = {name: values for name, values in feeds.items() if values.ndim}
        for name, values in of_images.items():
            first = self._first.setdefault(name, values[:1].copy())
            if values.shape[1:] != first.shape[1:] or (values != first).any():
                self._differs = True
                self._first.clear()
                return
        self._images += len(next(iter(of_images.values())))

    def refuse(self) -> None:
        """Raises PoisonedData where several images were all the same."""
        if not self._differs and self._images > 1:
            raise PoisonedData(
                f"all {self._images} images are the same in tensor {next(iter(self._first))!r} and every other input; "
                "give images that differ, as those will that the network is to see"
            )


def named(images: Sequence[Image]) -> str:
    """Such as `image 'cat.png'`."""
    first, last = images[0].name, images[-1].name
    return f"image {first!r}" if len(images) == 1 else f"the images {first!r} to {last!r}"


def _is_poison(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return ~(np.abs(values) <= LARGEST)  # NaN is in no order
