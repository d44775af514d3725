"""A classifier that one layer alone makes useless in INT8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnx_networks import NetworkBuilder, images

SPIKED = "node_conv_2"
"""The layer whose input has one channel 300 times as large as the others, which its weights undo."""


def spiked() -> ModelProto:
    """Four convolutions and a linear layer of 16 inputs; in float it is as good as any."""
    net = NetworkBuilder()
    first, second = net.normal(16, 3, 3, 3, scale=0.3), net.normal(16, 16, 3, 3, scale=0.12)
    first[0] *= 300
    second[:, 0] /= 300
    x = net.node("Relu", net.node("Conv", "image", net.weight(first), pads=[1] * 4, output="conv_0"))
    x = net.node("Relu", net.node("Conv", x, net.weight(second), pads=[1] * 4, output="conv_2"))
    for _ in range(2):
        x = net.node("Relu", net.conv(x, 16, 16))
    net.linear(net.spatial_mean(x), 16, 6, output="logits")
    return net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 6]})


def spiked_samples(count: int = 60, seed: int = 1) -> NDArray[np.float32]:
    """Each of a colour of its own, so that answers differ."""
    return 2 * images(count, 3, 1, 1, seed=seed) + 0.3 * images(count, 3, 8, 8, seed=seed + 1)
