"""The published networks for images that a recipe can name, each with the options that its paper varies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from pipeline.errors import RecipeError
from pipeline.models.interface import Interface
from pipeline.models.network_options import (
    Depth,
    Factor,
    FeedForward,
    FirstStride,
    Heads,
    MobileNetSize,
    Normalization,
    Width,
    Widths,
)
from pipeline.models.network_settings import NetworkSettings, require_a_depth_each_width, require_heads_of_one_size
from pipeline.models.network_suitability import only_output

if TYPE_CHECKING:
    from torch import nn


class MobileNet(NetworkSettings):
    """MobileNetV3: inverted residuals with depthwise convolutions, squeeze-and-excitation and hard swish."""

    name: Literal["mobilenet"]
    size: MobileNetSize = "large"
    width: Factor = 1.0
    stem_stride: FirstStride = 2
    normalization: Normalization = "batch"

    def network(self, interface: Interface) -> nn.Module:
        from pipeline import networks

        channels, outputs = interface.inputs[0].shape[0], only_output(interface)[0]
        return networks.MobileNet(channels, self.size, self.width, self.stem_stride, outputs, self.normalization)


class EfficientNet(NetworkSettings):
    """EfficientNet: inverted residuals with squeeze-and-excitation and SiLU. B0, and the others by their factors."""

    name: Literal["efficientnet"]
    width: Factor = 1.0
    depth: Factor = 1.0
    stem_stride: FirstStride = 2
    normalization: Normalization = "batch"

    def network(self, interface: Interface) -> nn.Module:
        from pipeline import networks

        channels, outputs = interface.inputs[0].shape[0], only_output(interface)[0]
        return networks.EfficientNet(channels, self.width, self.depth, self.stem_stride, outputs, self.normalization)


class RepVgg(NetworkSettings):
    """RepVGG: 3x3, 1x1 and identity branches while it trains, 3x3 convolutions alone in the exported graph."""

    name: Literal["repvgg"]
    widths: Widths
    depths: tuple[Depth, ...]
    """Blocks a width, the first of them of stride 2. A0 has widths 48, 96, 192, 1280 and depths 2, 4, 14, 1."""
    stem_stride: FirstStride = 2

    @model_validator(mode="after")
    def _fits_together(self) -> RepVgg:
        require_a_depth_each_width(self.depths, self.widths)
        return self

    def network(self, interface: Interface) -> nn.Module:
        from pipeline import networks

        channels, outputs = interface.inputs[0].shape[0], only_output(interface)[0]
        return networks.RepVgg(channels, self.widths, self.depths, self.stem_stride, outputs)


class VisionTransformer(NetworkSettings):
    """A vision transformer with a class token and learned positions: images of one size, which its patches divide."""

    name: Literal["vision_transformer"]
    patch: Width = 16
    width: Width = 192
    depth: Depth = 12
    heads: Heads = 3
    feed_forward: FeedForward = 4
    """Width of the hidden layer of each block, as a multiple of `width`."""

    @model_validator(mode="after")
    def _fits_together(self) -> VisionTransformer:
        require_heads_of_one_size(self.width, self.heads)
        return self

    def network(self, interface: Interface) -> nn.Module:
        from pipeline import networks

        channels, height, width = interface.inputs[0].shape
        if height % self.patch or width % self.patch:
            raise RecipeError(
                f"model {self.name}: patches of {self.patch} need a height and a width divisible by it, the images are "
                f"{height}x{width}; resize them in [data] preprocess, or give another patch"
            )
        return networks.VisionTransformer(
            channels,
            height,
            width,
            self.patch,
            self.width,
            self.depth,
            self.heads,
            self.feed_forward,
            only_output(interface)[0],
        )
