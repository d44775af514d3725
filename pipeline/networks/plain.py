"""A CNN without skips. Imports torch: import it inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.networks.normalization import normalization_of

if TYPE_CHECKING:
    from pipeline.models.network_options import Normalization


class PlainNetwork(nn.Module):
    """Halves height and width at each width after the first."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], outputs: int, normalization: Normalization = "batch"
    ) -> None:
        super().__init__()
        before = [in_channels, *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(narrow, wide, 3, 1 if index == 0 else 2, 1, bias=False),
                    normalization_of(normalization, wide),
                    nn.ReLU(),
                )
                for index, (narrow, wide) in enumerate(zip(before, widths, strict=True))
            )
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, outputs)."""
        features: Tensor = self.stages(images)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits
