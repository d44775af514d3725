"""The networks that calibration is measured on: seeded weights, activations as a trained network has them.

Weights are drawn, not trained, so that nothing has to be downloaded and every run has the same ones. What training
would give is set from data: batch-norm statistics by a pass over images, the head by the size of its logits. Images
are crops of the two photographs that scikit-learn's wheel carries.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.models.built_in_networks import BuiltInNetwork, Residual, Segmenter
from pipeline.models.image_networks import EfficientNet, MobileNet, RepVgg, VisionTransformer
from pipeline.models.interface import IMAGE, IMAGE_AXES, InputSpec, Interface

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED = 0
SIDE = 224
CLASSES = 1000
SEGMENTS = 21
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FITTED_IMAGES = 64
"""From which batch-norm statistics and the head are set; no other part sees these."""
FITTED_BATCH = 16
LEAST_CROP, MOST_CROP = 96, 400
"""Pixels of a photograph that make an image."""
OPSET = 18


@dataclass(frozen=True)
class BenchmarkNetwork:
    """A network by its options in a recipe."""

    title: str
    options: BuiltInNetwork
    per_pixel: bool = False


_BOTTLENECKS = Residual(
    name="residual", block="bottleneck", widths=(256, 512, 1024, 2048), depths=(3, 4, 6, 3), stem_stride=4
)
NETWORKS: dict[str, BenchmarkNetwork] = {
    "resnet-18": BenchmarkNetwork(
        "ResNet-18", Residual(name="residual", widths=(64, 128, 256, 512), depths=(2, 2, 2, 2), stem_stride=4)
    ),
    "resnet-50": BenchmarkNetwork("ResNet-50", _BOTTLENECKS),
    "mobilenet-v3": BenchmarkNetwork("MobileNetV3-large", MobileNet(name="mobilenet")),
    "efficientnet-b0": BenchmarkNetwork("EfficientNet-B0", EfficientNet(name="efficientnet")),
    "repvgg-a0": BenchmarkNetwork("RepVGG-A0", RepVgg(name="repvgg", widths=(48, 96, 192, 1280), depths=(2, 4, 14, 1))),
    "vit-tiny": BenchmarkNetwork("ViT-tiny", VisionTransformer(name="vision_transformer")),
    "u-net": BenchmarkNetwork(
        "U-Net", Segmenter(name="segmenter", widths=(16, 32, 64, 128), join="concatenate"), per_pixel=True
    ),
}


def images(count: int, seed: int, side: int = SIDE) -> NDArray[np.float32]:
    """(count, 3, side, side), normalized; crops of photographs at any scale, mirrored, lighter and darker."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    draw = np.random.default_rng(seed)
    made = np.empty((count, 3, side, side), np.float32)
    mean, deviation = (np.array(each, np.float32)[:, None, None] for each in (MEAN, DEVIATION))
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        crop = int(draw.integers(LEAST_CROP, MOST_CROP))
        left, top = (int(draw.integers(0, size - crop)) for size in photograph.size)
        resized = photograph.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + crop, top + crop))
        pixels = np.asarray(resized, np.float32).transpose(2, 0, 1) / 255
        lit = np.clip(pixels * np.float32(draw.uniform(0.6, 1.4)), 0, 1)
        made[index] = (lit[:, :, ::-1] if draw.random() < 0.5 else lit) - mean
    made /= deviation
    return made


def interface_of(network: BenchmarkNetwork, channels: int = 3, side: int = SIDE, classes: int = CLASSES) -> Interface:
    """One image in, a logit a class out, or a logit a class and pixel."""
    output = (SEGMENTS, side, side) if network.per_pixel else (classes,)
    return Interface((InputSpec(IMAGE, "float32", (channels, side, side), IMAGE_AXES),), {"logits": output}, output[0])


def graph_of(name: str, folder: Path) -> Path:
    """The network's FP32 ONNX file, made once a folder."""
    path = folder / f"{name}.onnx"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_graph(fitted_network(NETWORKS[name]), interface_of(NETWORKS[name]), path)
    return path


def fitted_network(network: BenchmarkNetwork) -> nn.Module:
    """Seeded weights, statistics of real activations."""
    import torch

    torch.manual_seed(SEED)
    made = network.options.make(interface_of(network), Path())
    batches = torch.split(torch.from_numpy(images(FITTED_IMAGES, seed=SEED)), FITTED_BATCH)
    _spread_transformer_weights(made)
    _fit_batch_norms(made, batches)
    _fit_head(made, batches)
    return made.eval()


def write_graph(network: nn.Module, interface: Interface, path: Path) -> None:
    """As `[export]` does; whole or not at all."""
    import onnx

    from pipeline.exporting.exporter import exported, strip_metadata

    model = exported(network, interface, tuple(interface.outputs), OPSET)
    strip_metadata(model)
    partial = path.with_suffix(f".{os.getpid()}")
    onnx.save(model, partial)
    partial.replace(path)


def _spread_transformer_weights(network: nn.Module) -> None:
    """Variance-preserving: torch's default leaves each product a third of it, and attention uniform."""
    from torch import nn

    from pipeline.networks import VisionTransformer

    if isinstance(network, VisionTransformer):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)


def _fit_batch_norms(network: nn.Module, batches: tuple[Tensor, ...]) -> None:
    """The average over batches, each normalized by its own statistics on the way, as in training."""
    import torch
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    network.eval()


def _fit_head(network: nn.Module, batches: tuple[Tensor, ...]) -> None:
    """Logits of unit mean square."""
    import torch

    head = network.get_submodule("head")
    with torch.no_grad():
        scale = torch.cat([network(batch) for batch in batches]).square().mean().sqrt()
        for parameter in head.parameters():
            parameter.div_(scale)
