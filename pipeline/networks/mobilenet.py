"""MobileNetV3. Imports torch: import it inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.networks.inverted_residual import Activations, BlockShape, InvertedResidual, convolution, divisible

if TYPE_CHECKING:
    from pipeline.models.network_options import MobileNetSize, Normalization

STEM_CHANNELS = 16
LAST_EXPANSION = 6
"""Channels before the mean over those after the last block."""

# Kernel, hidden channels, output channels, squeeze-and-excitation, hard swish (else ReLU), stride.
LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
BLOCKS = {"large": LARGE, "small": SMALL}
HEAD_CHANNELS = {"large": 1280, "small": 1024}


class MobileNet(nn.Module):
    """MobileNetV3, tables 1 and 2 of Howard et al., arXiv 1905.02244, with all channels times `width`.

    Divides height and width by 16 behind the stem, and by `stem_stride` in it.
    """

    def __init__(
        self,
        in_channels: int,
        size: MobileNetSize,
        width: float,
        stem_stride: int,
        outputs: int,
        normalization: Normalization,
    ) -> None:
        super().__init__()
        before = divisible(STEM_CHANNELS * width)
        self.stem = convolution(in_channels, before, 3, stem_stride, normalization, nn.Hardswish)
        blocks = []
        for kernel, hidden, after, squeezes, hard_swish, stride in BLOCKS[size]:
            wide, out = divisible(hidden * width), divisible(after * width)
            shape = BlockShape(before, wide, out, kernel, stride, divisible(wide / 4) if squeezes else None)
            activations = Activations(nn.Hardswish if hard_swish else nn.ReLU, nn.ReLU, nn.Hardsigmoid)
            blocks.append(InvertedResidual(shape, activations, normalization))
            before = out
        self.blocks = nn.Sequential(*blocks)
        self.last = convolution(before, LAST_EXPANSION * before, 1, 1, normalization, nn.Hardswish)
        inner = divisible(HEAD_CHANNELS[size] * max(1.0, width))
        self.hidden = nn.Linear(LAST_EXPANSION * before, inner)
        self.activation = nn.Hardswish()
        self.head = nn.Linear(inner, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, outputs)."""
        features: Tensor = self.last(self.blocks(self.stem(images)))
        # The mean comes first, so that the widest layer sees one pixel: section 5.1 of the paper.
        logits: Tensor = self.head(self.activation(self.hidden(features.mean((2, 3)))))
        return logits
