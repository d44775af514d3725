"""Two untrained networks with more than a dynamic batch: an encoder-decoder, and a transformer of two inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.interface import InputSpec, Interface

IMAGES = Interface((InputSpec("input", "float32", (3, 32, 32), ("channels", "height", "width")),), {"logits": None}, 5)
"""`EncoderDecoder`'s."""
ROWS = Interface(
    (
        InputSpec("rows", "float32", (24, 8), ("length", "features")),
        InputSpec("mask", "float32", (24,), ("length",)),
    ),
    {"logits": (6,), "tokens": None},
    6,
)
"""`Transformer`'s."""
SPATIAL, SEQUENTIAL = ("batch", "height", "width"), ("batch", "length")


class EncoderDecoder(nn.Module):
    """(N, 3, H, W) -> (N, 5, H, W), for any H and W that 4 divides: nearest-neighbour upsampling, skips by addition."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.up2 = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.up1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        whole = functional.relu(self.stem(images))
        half = functional.relu(self.down1(whole))
        quarter = functional.relu(self.down2(half))
        half = functional.relu(half + self.up2(_twice(quarter)))
        whole = functional.relu(whole + self.up1(_twice(half)))
        found: Tensor = self.head(whole)
        return found


class Transformer(nn.Module):
    """Rows (N, L, 8) and their mask (N, L) -> a masked mean (N, 6) and the tokens (N, L, width), for L up to 64."""

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = heads
        self.embed = nn.Linear(8, width)
        self.positions = nn.Parameter(torch.randn(64, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 6)

    def forward(self, rows: Tensor, mask: Tensor) -> dict[str, Tensor]:
        # Not in the task's order: a dict needs none.
        tokens = self.embed(rows) + self.positions[: rows.shape[1]]
        tokens = tokens + self._attention(self.norm1(tokens), mask)
        tokens = tokens + self.narrow(functional.gelu(self.wide(self.norm2(tokens))))
        total = (tokens * mask.unsqueeze(-1)).sum(1)
        return {"tokens": tokens, "logits": self.head(total / mask.sum(1, keepdim=True))}

    def _attention(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        scores = scores + (1 - mask)[:, None, None, :] * -1e4
        found: Tensor = self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return found

    def _split(self, x: Tensor) -> Tensor:
        """(N, L, width) -> (N, heads, L, width / heads)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
