"""A vision transformer. Imports torch: import it inside functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.networks.transformer import TransformerBlock

POSITION_DEVIATION = 0.02


class VisionTransformer(nn.Module):
    """Patches and a class token through a transformer encoder: Dosovitskiy et al., arXiv 2010.11929.

    Width 192, depth 12 and 3 heads over patches of 16 are ViT-tiny (Touvron et al., arXiv 2012.12877). Positions are
    learned, so it takes images of one size.
    """

    def __init__(
        self,
        in_channels: int,
        height: int,
        width: int,
        patch: int,
        embedding: int,
        depth: int,
        heads: int,
        feed_forward: int,
        outputs: int,
    ) -> None:
        super().__init__()
        patches = (height // patch) * (width // patch)
        self.patches = nn.Conv2d(in_channels, embedding, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embedding))
        self.positions = nn.Parameter(torch.randn(1, patches + 1, embedding) * POSITION_DEVIATION)
        self.blocks = nn.ModuleList(TransformerBlock(embedding, heads, feed_forward) for _ in range(depth))
        self.norm = nn.LayerNorm(embedding)
        self.head = nn.Linear(embedding, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, outputs)."""
        seen = self.patches(images).flatten(2).transpose(1, 2)  # (batch, patches, embedding)
        tokens = torch.cat((self.class_token.expand(seen.shape[0], -1, -1), seen), dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens, None)
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits
