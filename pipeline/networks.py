"""The built-in networks. Imports torch: import it inside functions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip, as in He et al., arXiv 1512.03385."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels and stride == 1
        self.skip: nn.Module = nn.Identity()
        if not same:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.skip = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, out_channels, h / stride, w / stride)."""
        hidden = relu(self.norm1(self.conv1(images)))
        return relu(self.norm2(self.conv2(hidden)) + self.skip(images))


class ResidualNetwork(nn.Module):
    """Halves height and width at each width after the first."""

    def __init__(self, in_channels: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        before = [widths[0], *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                BasicBlock(narrow, wide, 1 if index == 0 else 2)
                for index, (narrow, wide) in enumerate(zip(before, widths, strict=True))
            )
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, outputs)."""
        features: Tensor = self.stages(self.stem(images))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class PlainNetwork(nn.Module):
    """Halves height and width at each width after the first."""

    def __init__(self, in_channels: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        before = [in_channels, *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(narrow, wide, 3, 1 if index == 0 else 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()
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
