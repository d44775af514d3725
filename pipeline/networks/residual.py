"""Residual CNNs up to the size of ResNet-50. Imports torch: import it inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import relu

from pipeline.networks.normalization import normalization_of

if TYPE_CHECKING:
    from pipeline.models.network_options import Block, Normalization, StemStride

EXPANSION = 4
"""A bottleneck's width over the width of its 3x3 convolution."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip, as in He et al., arXiv 1512.03385."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, normalization: Normalization) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = normalization_of(normalization, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = normalization_of(normalization, out_channels)
        self.skip = _skip(in_channels, out_channels, stride, normalization)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, out_channels, h / stride, w / stride)."""
        hidden = relu(self.norm1(self.conv1(images)))
        return relu(self.norm2(self.conv2(hidden)) + self.skip(images))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a skip, as in He et al., arXiv 1512.03385.

    The stride is that of the 3x3 convolution, as in most published weights ("ResNet v1.5").
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, normalization: Normalization) -> None:
        super().__init__()
        inner = out_channels // EXPANSION
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm1 = normalization_of(normalization, inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.norm2 = normalization_of(normalization, inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.norm3 = normalization_of(normalization, out_channels)
        self.skip = _skip(in_channels, out_channels, stride, normalization)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, out_channels, h / stride, w / stride)."""
        hidden = relu(self.norm1(self.conv1(images)))
        hidden = relu(self.norm2(self.conv2(hidden)))
        return relu(self.norm3(self.conv3(hidden)) + self.skip(images))


BLOCKS: dict[Block, type[BasicBlock] | type[BottleneckBlock]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class ResidualNetwork(nn.Module):
    """Halves height and width at each width after the first; `stages.<i>` is what width i gives."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        outputs: int,
        depths: Sequence[int] | None = None,
        block: Block = "basic",
        stem_stride: StemStride = 1,
        normalization: Normalization = "batch",
    ) -> None:
        super().__init__()
        first = widths[0] if block == "basic" else widths[0] // EXPANSION
        self.stem = _stem(in_channels, first, stem_stride, normalization)
        before = [first, *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                _stage(narrow, wide, 1 if index == 0 else 2, depth, block, normalization)
                for index, (narrow, wide, depth) in enumerate(
                    zip(before, widths, depths or [1] * len(widths), strict=True)
                )
            )
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, outputs)."""
        features: Tensor = self.stages(self.stem(images))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def _stem(in_channels: int, out_channels: int, stride: StemStride, normalization: Normalization) -> nn.Sequential:
    """(batch, in_channels, h, w) -> (batch, out_channels, h / stride, w / stride)."""
    size = 7 if stride == 4 else 3
    convolution = nn.Conv2d(in_channels, out_channels, size, min(stride, 2), size // 2, bias=False)
    pool = [nn.MaxPool2d(3, 2, 1)] if stride == 4 else []
    return nn.Sequential(convolution, normalization_of(normalization, out_channels), nn.ReLU(), *pool)


def _stage(narrow: int, wide: int, stride: int, depth: int, block: Block, normalization: Normalization) -> nn.Module:
    """One block is itself the stage, so that a network of one block a width has no level more in its names."""
    first = BLOCKS[block](narrow, wide, stride, normalization)
    if depth == 1:
        return first
    return nn.Sequential(first, *(BLOCKS[block](wide, wide, 1, normalization) for _ in range(depth - 1)))


def _skip(in_channels: int, out_channels: int, stride: int, normalization: Normalization) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, normalization_of(normalization, out_channels))
