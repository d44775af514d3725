"""The built-in networks. Imports torch: import it inside functions."""

from __future__ import annotations

from pipeline.networks.plain import PlainNetwork
from pipeline.networks.residual import ResidualNetwork
from pipeline.networks.segmentation import SegmentationNetwork
from pipeline.networks.transformer import TransformerNetwork

__all__ = ["PlainNetwork", "ResidualNetwork", "SegmentationNetwork", "TransformerNetwork"]
