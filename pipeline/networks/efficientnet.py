"""EfficientNet. Imports torch: import it inside functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.networks.inverted_residual import Activations, BlockShape, InvertedResidual, convolution, divisible

if TYPE_CHECKING:
    from pipeline.models.network_options import Normalization

STEM_CHANNELS = 32
LAST_CHANNELS = 1280
ACTIVATIONS = Activations(nn.SiLU, nn.SiLU, nn.Sigmoid)

# Hidden channels over the input's, kernel, output channels, blocks, stride of the first.
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


class EfficientNet(nn.Module):
    """EfficientNet, table 1 of Tan and Le, arXiv 1905.11946, scaled: channels by `width`, blocks a stage by `depth`.

    B0 is 1 and 1, B1 1 and 1.1, B2 1.1 and 1.2, B3 1.2 and 1.4. Divides height and width by 16 behind the stem, and by
    `stem_stride` in it.
    """

    def __init__(
        self,
        in_channels: int,
        width: float,
        depth: float,
        stem_stride: int,
        outputs: int,
        normalization: Normalization,
    ) -> None:
        super().__init__()
        before = divisible(STEM_CHANNELS * width)
        self.stem = convolution(in_channels, before, 3, stem_stride, normalization, nn.SiLU)
        stages = []
        for expansion, kernel, channels, blocks, stride in STAGES:
            after = divisible(channels * width)
            made = []
            for index in range(math.ceil(blocks * depth)):
                # The squeeze is a quarter of what comes into the block, not of what it expands to.
                shape = BlockShape(
                    before, expansion * before, after, kernel, stride if index == 0 else 1, max(1, before // 4)
                )
                made.append(InvertedResidual(shape, ACTIVATIONS, normalization))
                before = after
            stages.append(nn.Sequential(*made))
        self.stages = nn.Sequential(*stages)
        last = divisible(LAST_CHANNELS * width)
        self.last = convolution(before, last, 1, 1, normalization, nn.SiLU)
        self.head = nn.Linear(last, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, outputs)."""
        features: Tensor = self.last(self.stages(self.stem(images)))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits
