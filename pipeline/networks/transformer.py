"""A transformer encoder for sequences of any length. Imports torch: import it inside functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

PADDING_SCORE = -1e4
"""Added to the score of a padded token: its softmax is 0, and half precision can hold it, as it cannot -infinity."""


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(head width)) V in several heads, as in Vaswani et al., arXiv 1706.03762.

    Written as matrix products, which quantize; `query` and `key` stand alone, so that a loss can compute the
    attention maps from what they give.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.scale = 1 / math.sqrt(width // heads)

    def forward(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """(batch, length, width), added to the scores (batch, 1, 1, length) -> (batch, length, width)."""
        query, key, value = (self._split(part(tokens)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) * self.scale  # (batch, heads, length, length)
        if padding is not None:
            scores = scores + padding
        mixed = softmax(scores, dim=-1) @ value
        found: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return found

    def _split(self, tokens: Tensor) -> Tensor:
        """(batch, length, width) -> (batch, heads, length, width / heads)."""
        return torch.unflatten(tokens, -1, (self.heads, -1)).transpose(1, 2)


class TransformerBlock(nn.Module):
    """Normalization before each part (Xiong et al., arXiv 2002.04745): it trains without a warm-up."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, feed_forward * width), nn.GELU(), nn.Linear(feed_forward * width, width)
        )

    def forward(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """(batch, length, width), added to the scores (batch, 1, 1, length) -> (batch, length, width)."""
        tokens = tokens + self.attention(self.norm1(tokens), padding)
        found: Tensor = tokens + self.feed_forward(self.norm2(tokens))
        return found


class TransformerNetwork(nn.Module):
    """One vector for a sequence, from the mean of its real tokens, or with `per_token` one for each token.

    Takes sequences of up to `longest` tokens; positions are sinusoids, which have no weights.
    """

    positions: Tensor

    def __init__(
        self,
        embedding: nn.Linear | nn.Embedding,
        width: int,
        depth: int,
        heads: int,
        feed_forward: int,
        longest: int,
        outputs: int,
        per_token: bool,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, feed_forward) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        self.per_token = per_token
        self.register_buffer("positions", sinusoids(longest, width), persistent=False)

    def forward(self, sequences: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, length, features) or ids (batch, length), mask (batch, length) -> (batch, [length,] outputs)."""
        tokens: Tensor = self.embedding(sequences)
        tokens = tokens + self.positions[: sequences.shape[1]]
        real = None if mask is None else mask.to(tokens.dtype)
        padding = None if real is None else ((1 - real) * PADDING_SCORE)[:, None, None, :]
        for block in self.blocks:
            tokens = block(tokens, padding)
        tokens = self.norm(tokens)
        logits: Tensor = self.head(tokens if self.per_token else _mean(tokens, real))
        return logits


def sinusoids(longest: int, width: int) -> Tensor:
    """(longest, width): sines, then cosines, of wavelengths from 2 pi to 10,000 * 2 pi; arXiv 1706.03762, 3.5."""
    wavelengths = 10_000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(longest, dtype=torch.float64)[:, None] / wavelengths
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width].to(torch.get_default_dtype())


def _mean(tokens: Tensor, real: Tensor | None) -> Tensor:
    """Over the real tokens, (batch, width); zero where there is none."""
    if real is None:
        return tokens.mean(1)
    return (tokens * real[:, :, None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
