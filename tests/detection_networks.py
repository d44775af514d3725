"""A user's own single-shot detector of a 4x4 grid. As `models.py` it stands beside a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Detector(nn.Module):
    """Images (batch, 1, 32, 32) -> scores (batch, 16, 1 + classes) and boxes (batch, 16, 4), each 0 to 1."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        before = [1, *widths[:-1]]
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
                for narrow, wide in zip(before, widths, strict=True)
            )
        )
        self.scores = nn.Conv2d(widths[-1], 1 + classes, 3, 1, 1)
        self.boxes = nn.Conv2d(widths[-1], 4, 3, 1, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        seen = self.body(images)
        scores, boxes = self.scores(seen), self.boxes(seen).sigmoid()
        return {"scores": scores.flatten(2).transpose(1, 2), "boxes": boxes.flatten(2).transpose(1, 2)}


def make_teacher() -> nn.Module:
    """Three halvings, from 32 pixels to 4 cells."""
    return Detector((16, 32, 64), 3)


def make_student() -> nn.Module:
    """A sixth of its teacher's weights."""
    return Detector((8, 16, 16), 3)
