"""An encoder and a decoder with skips, for outputs of the image's size. Imports torch: import it inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pipeline.networks.normalization import normalization_of
from pipeline.networks.residual import BasicBlock

if TYPE_CHECKING:
    from pipeline.models.network_options import Join, Normalization


class UpBlock(nn.Module):
    """Doubles height and width and adds what the encoder saw there, as in LinkNet (arXiv 1707.03718).

    Nearest resize and a convolution (Odena et al., distill.pub 2016) stay INT8 on TensorRT, where a transposed
    convolution and a bilinear resize are float; the addition ends as a residual block does, in one fused kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, normalization: Normalization) -> None:
        super().__init__()
        self.resize = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.conv = nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False)
        self.norm = normalization_of(normalization, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """(batch, in_channels, h / 2, w / 2) and (batch, out_channels, h, w) -> (batch, out_channels, h, w)."""
        return relu(self.norm(self.conv(self.resize(deep))) + skip)


class ConcatenatingUpBlock(nn.Module):
    """Doubles height and width and puts beside it what the encoder saw there, as in U-Net (arXiv 1505.04597).

    Resize and convolution stand for U-Net's transposed convolution, and padding for its cropping.
    """

    def __init__(self, in_channels: int, out_channels: int, normalization: Normalization) -> None:
        super().__init__()
        self.resize = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False)
        self.norm1 = normalization_of(normalization, out_channels)
        self.conv2 = nn.Conv2d(2 * out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = normalization_of(normalization, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """(batch, in_channels, h / 2, w / 2) and (batch, out_channels, h, w) -> (batch, out_channels, h, w)."""
        both = torch.cat((relu(self.norm1(self.conv1(self.resize(deep)))), skip), dim=1)
        return relu(self.norm2(self.conv2(both)))


UP_BLOCKS: dict[Join, type[UpBlock] | type[ConcatenatingUpBlock]] = {
    "add": UpBlock,
    "concatenate": ConcatenatingUpBlock,
}


class SegmentationNetwork(nn.Module):
    """Down by a residual block a width, up again by an `UpBlock` each, or by a `ConcatenatingUpBlock`.

    Height and width must be divisible by 2 ** (len(widths) - 1).
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        outputs: int,
        normalization: Normalization = "batch",
        join: Join = "add",
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False),
            normalization_of(normalization, widths[0]),
            nn.ReLU(),
        )
        before = [widths[0], *widths[:-1]]
        self.encoder = nn.ModuleList(
            BasicBlock(narrow, wide, 1 if index == 0 else 2, normalization)
            for index, (narrow, wide) in enumerate(zip(before, widths, strict=True))
        )
        self.decoder = nn.ModuleList(
            UP_BLOCKS[join](wide, narrow, normalization) for wide, narrow in pairwise(widths[::-1])
        )
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, outputs, h, w)."""
        features: Tensor = self.stem(images)
        skips: list[Tensor] = []
        for block in self.encoder:
            features = block(features)
            skips.append(features)
        for block, skip in zip(self.decoder, skips[-2::-1], strict=True):
            features = block(features, skip)
        logits: Tensor = self.head(features)
        return logits
