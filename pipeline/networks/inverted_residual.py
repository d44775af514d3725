"""The block that MobileNetV3 and EfficientNet are made of. Imports torch: import it inside functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.networks.normalization import normalization_of

if TYPE_CHECKING:
    from pipeline.models.network_options import Normalization

DIVISOR = 8
"""Channel counts are multiples of it."""
MOST_LOST = 0.9
"""Rounding may take a tenth of the channels, no more."""

Activation = Callable[[], nn.Module]


def divisible(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and keeps nine tenths of the channels."""
    rounded = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded if rounded >= MOST_LOST * channels else rounded + DIVISOR


@dataclass(frozen=True)
class BlockShape:
    """One block in numbers."""

    in_channels: int
    hidden_channels: int
    out_channels: int
    kernel: int
    stride: int
    squeezed_channels: int | None
    """Of the squeeze-and-excitation between the depthwise convolution and the projection; None: there is none."""


@dataclass(frozen=True)
class Activations:
    """Behind the first two convolutions, within the squeeze-and-excitation, and of its gate."""

    block: Activation
    squeezed: Activation
    gate: Activation


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from the means of all: Hu et al., arXiv 1709.01507."""

    def __init__(self, channels: int, squeezed_channels: int, activations: Activations) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed_channels, 1)
        self.activation = activations.squeezed()
        self.expand = nn.Conv2d(squeezed_channels, channels, 1)
        self.gate = activations.gate()

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, h, w) -> (batch, channels, h, w)."""
        means = images.mean((2, 3), keepdim=True)  # (batch, channels, 1, 1)
        scaled: Tensor = images * self.gate(self.expand(self.activation(self.reduce(means))))
        return scaled


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without an activation: Sandler et al., arXiv 1801.04381.

    The skip is there where neither the size nor the channels change, the expansion where it changes the channels.
    """

    def __init__(self, shape: BlockShape, activations: Activations, normalization: Normalization) -> None:
        super().__init__()
        hidden = shape.hidden_channels
        self.expand = (
            nn.Identity()
            if hidden == shape.in_channels
            else convolution(shape.in_channels, hidden, 1, 1, normalization, activations.block)
        )
        self.depthwise = convolution(
            hidden, hidden, shape.kernel, shape.stride, normalization, activations.block, hidden
        )
        self.squeeze = (
            nn.Identity()
            if shape.squeezed_channels is None
            else SqueezeExcitation(hidden, shape.squeezed_channels, activations)
        )
        self.project = convolution(hidden, shape.out_channels, 1, 1, normalization)
        self.skips = shape.stride == 1 and shape.in_channels == shape.out_channels

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, out_channels, h / stride, w / stride)."""
        found: Tensor = self.project(self.squeeze(self.depthwise(self.expand(images))))
        return found + images if self.skips else found


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    normalization: Normalization,
    activation: Activation | None = None,
    groups: int = 1,
) -> nn.Sequential:
    """(batch, in_channels, h, w) -> (batch, out_channels, h / stride, w / stride), normalized."""
    convolved = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    activated = [] if activation is None else [activation()]
    return nn.Sequential(convolved, normalization_of(normalization, out_channels), *activated)
