"""The one function between a raw image and a network's input, declared as data and shipped with the engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import DataRejected

Layout = Literal["hw", "hwc", "chw"]
Pixels = Annotated[int, Field(ge=1, le=16_384)]
Size = tuple[Pixels, Pixels]
Raw = NDArray[Any]


class Preprocess(BaseModel):
    """resize, then crop, then `(x * scale - mean) / std`; the result is float32 in (channels, height, width)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout | None = None
    """Of the raw image; None: `hw` for two dimensions, for three by which of the first and last is 1, 3 or 4."""
    resize: Size | None = None
    """Height and width in pixels, bilinear with antialiasing."""
    crop: Size | None = None
    """Height and width of the centre that is kept, in pixels."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    mean: Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1)] = (0.0,)
    """Per channel, or one for all, in scaled units."""
    std: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)] = (1.0,)

    @model_validator(mode="after")
    def _mean_pairs_with_std(self) -> Preprocess:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}; give one for each channel")
        return self

    @model_validator(mode="after")
    def _crop_fits(self) -> Preprocess:
        if self.resize and self.crop and (self.crop[0] > self.resize[0] or self.crop[1] > self.resize[1]):
            raise ValueError(
                f"crop {_written(self.crop)} is larger than resize {_written(self.resize)}, which comes first"
            )
        return self

    def for_images_like(self, raw: Raw, name: str = "an image") -> Preprocess:
        """The same, with the layout written down; raises DataRejected where the image does not tell it."""
        return self.model_copy(update={"layout": self.layout or _guessed_layout(raw, name)})

    def apply(self, raw: Raw, name: str = "an image") -> NDArray[np.float32]:
        """(channels, height, width) of one raw image; raises DataRejected where it does not fit or is not finite.

        `name` is what an error calls the image.
        """
        image = _channels_first(raw, self.layout or _guessed_layout(raw, name), name)
        if len(self.mean) not in (1, len(image)):
            raise DataRejected(
                f"{name} has {len(image)} channel{'s' if len(image) > 1 else ''}, preprocess.mean has "
                f"{len(self.mean)} values; give one for all, or one for each"
            )
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            result = self._normalized(self._sized(image.astype(np.float32), name))
        if not np.isfinite(result).all():
            raise DataRejected(f"{name} holds NaN or infinite values, or gets them from preprocess.scale, mean and std")
        return result

    def sized_bytes(self, raw: Raw, name: str = "an image") -> NDArray[np.uint8]:
        """(height, width, channels) of one raw image, resized, cropped and rounded: what a camera's engine takes.

        Raises DataRejected where the raw values are not whole numbers from 0 to 255.
        """
        image = _channels_first(raw, self.layout or _guessed_layout(raw, name), name)
        if not (np.isfinite(image) & (image >= 0) & (image <= 255) & (image == np.floor(image))).all():
            raise DataRejected(
                f"{name} holds values from {image.min():g} to {image.max():g}, and an engine of uint8-nhwc input takes "
                "bytes: whole numbers from 0 to 255. Give such images, or leave 'input' out of the target"
            )
        sized = self._sized(image.astype(np.float32), name)
        return np.ascontiguousarray(np.rint(sized).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))

    def normalized_bytes(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(channels, height, width) of an image that `sized_bytes` made: what its engine makes of it inside."""
        return self._normalized(image.transpose(2, 0, 1).astype(np.float32))

    def before_bytes(self) -> Preprocess:
        """What remains to be done where the engine takes bytes: resize and crop."""
        return Preprocess(layout=self.layout, resize=self.resize, crop=self.crop)

    def apply_to_label(self, label: Raw, name: str = "a label") -> Raw:
        """A label of (height, width), resized to the nearest pixel and cropped as its image is."""
        if self.resize is not None:
            rows, columns = (_nearest(*sizes) for sizes in zip(label.shape, self.resize, strict=True))
            label = label[rows[:, None], columns]
        return label if self.crop is None else _cropped(label[None], self.crop, name)[0]

    def size_of(self, raw: Raw) -> Size:
        """Height and width of a raw image."""
        _, height, width = _channels_first(raw, self.layout or _guessed_layout(raw, "an image"), "an image").shape
        return height, width

    def _sized(self, image: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        if self.resize is not None:
            image = np.stack([_resized(channel, self.resize) for channel in image])
        return image if self.crop is None else _cropped(image, self.crop, name)

    def _normalized(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        mean = np.asarray(self.mean, np.float32)[:, None, None]
        std = np.asarray(self.std, np.float32)[:, None, None]
        return np.ascontiguousarray((image * np.float32(self.scale) - mean) / std)


def _guessed_layout(raw: Raw, name: str) -> Layout:
    if raw.ndim == 2:
        return "hw"
    first, last = (raw.ndim == 3 and raw.shape[axis] in (1, 3, 4) for axis in (0, -1))
    if first == last:
        raise DataRejected(
            f"{name} has shape {raw.shape}, which does not tell its channels; "
            "set [data] preprocess.layout to hw, hwc or chw"
        )
    return "chw" if first else "hwc"


def _channels_first(raw: Raw, layout: Layout, name: str) -> Raw:
    if raw.size == 0:
        raise DataRejected(f"{name} is empty (shape {raw.shape})")
    if raw.ndim != len(layout):
        raise DataRejected(
            f"{name} has shape {raw.shape}, the layout '{layout}' has {len(layout)} dimensions; make all images gray "
            "or all RGB, and where it is set, [data] preprocess.layout what they are"
        )
    if layout == "hw":
        return raw[None]
    return raw.transpose(2, 0, 1) if layout == "hwc" else raw


def _resized(channel: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    from PIL import Image

    height, width = size
    # Mode "F" keeps float32 and, unlike "L", rounds nothing.
    return np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _nearest(before: int, after: int) -> NDArray[np.int64]:
    """For each new line the old one that its centre lies in."""
    return ((np.arange(after) + 0.5) * before / after).astype(np.int64)


def _cropped(image: Raw, size: Size, name: str) -> Raw:
    _, height, width = image.shape
    if size[0] > height or size[1] > width:
        raise DataRejected(
            f"{name} is {height}x{width}, preprocess.crop is {_written(size)}; set preprocess.resize, which comes first"
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return image[:, top : top + size[0], left : left + size[1]]


def _written(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
