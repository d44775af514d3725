"""The normalization after a convolution. Imports torch: import it inside functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from pipeline.models.network_options import Normalization

MOST_GROUPS = 32
LEAST_CHANNELS = 4
"""In a group: a single channel of a 1x1 image would always be normalized to zero."""


def normalization_of(kind: Normalization, channels: int) -> nn.Module:
    """Batch normalization, or group normalization (Wu and He, arXiv 1803.08494), which looks at one sample alone.

    Up to 32 groups, a power of two, of at least four channels each; one group where there are fewer channels.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(MOST_GROUPS, channels, max(1, channels // LEAST_CHANNELS)), channels)
