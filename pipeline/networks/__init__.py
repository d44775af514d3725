"""The built-in networks. Imports torch: import it inside functions."""

from __future__ import annotations

from pipeline.networks.efficientnet import EfficientNet
from pipeline.networks.mobilenet import MobileNet
from pipeline.networks.plain import PlainNetwork
from pipeline.networks.repvgg import RepVgg
from pipeline.networks.residual import ResidualNetwork
from pipeline.networks.segmentation import SegmentationNetwork
from pipeline.networks.transformer import TransformerNetwork
from pipeline.networks.vision_transformer import VisionTransformer

__all__ = [
    "EfficientNet",
    "MobileNet",
    "PlainNetwork",
    "RepVgg",
    "ResidualNetwork",
    "SegmentationNetwork",
    "TransformerNetwork",
    "VisionTransformer",
]
