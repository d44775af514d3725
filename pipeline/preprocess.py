"""The one function between a raw image and a network's input, declared as data and shipped with the engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from pipeline.errors import DataRejected

Layout = Literal["hw", "hwc", "chw"]
Size = tuple[PositiveInt, PositiveInt]
Raw = NDArray[Any]


class Preprocess(BaseModel):
    """resize, then crop, then `(x * scale - mean) / std`; the result is float32 in (channels, height, width)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout | None = None
    """Of the raw image; None: `hw` for two dimensions, `hwc` where the last of three is 1, 3 or 4, else `chw`."""
    resize: Size | None = None
    """Height and width in pixels, bilinear with antialiasing."""
    crop: Size | None = None
    """Height and width of the centre that is kept, in pixels."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = (0.0,)
    """Per channel, or one for all, in scaled units."""
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = (1.0,)

    @model_validator(mode="after")
    def _mean_pairs_with_std(self) -> Preprocess:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}; give one for each channel")
        return self

    def for_images_like(self, raw: Raw) -> Preprocess:
        """The same, with the layout written down; raises DataRejected where the image does not fit."""
        return self.model_copy(update={"layout": self.layout or _guessed_layout(raw)})

    def apply(self, raw: Raw) -> NDArray[np.float32]:
        """(channels, height, width) of one raw image; raises DataRejected where it does not fit."""
        image = _channels_first(raw, self.layout or _guessed_layout(raw)).astype(np.float32)
        if self.resize is not None:
            image = np.stack([_resized(channel, self.resize) for channel in image])
        if self.crop is not None:
            image = _cropped(image, self.crop)
        if len(self.mean) not in (1, len(image)):
            raise DataRejected(
                f"[data] preprocess.mean has {len(self.mean)} values, the images have {len(image)} channels"
            )
        mean = np.asarray(self.mean, np.float32)[:, None, None]
        std = np.asarray(self.std, np.float32)[:, None, None]
        return np.ascontiguousarray((image * np.float32(self.scale) - mean) / std)


def _guessed_layout(raw: Raw) -> Layout:
    if raw.ndim == 2:
        return "hw"
    return "hwc" if raw.ndim == 3 and raw.shape[-1] in (1, 3, 4) else "chw"


def _channels_first(raw: Raw, layout: Layout) -> Raw:
    if raw.ndim != len(layout):
        raise DataRejected(
            f"an image has shape {raw.shape}, the layout '{layout}' has {len(layout)} dimensions; "
            "set [data] preprocess.layout to hw, hwc or chw"
        )
    if layout == "hw":
        return raw[None]
    return raw.transpose(2, 0, 1) if layout == "hwc" else raw


def _resized(channel: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    from PIL import Image

    height, width = size
    # Mode "F" keeps float32 and, unlike "L", rounds nothing.
    return np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _cropped(image: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    _, height, width = image.shape
    if size[0] > height or size[1] > width:
        raise DataRejected(f"[data] preprocess.crop is {size[0]}x{size[1]}, an image is {height}x{width}; resize first")
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return image[:, top : top + size[0], left : left + size[1]]
