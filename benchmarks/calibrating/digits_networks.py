"""The same networks trained for a few epochs on digits enlarged to 96x96, each in a process of its own.

    python -m benchmarks.calibrating.digits_networks '{"network": "vit-tiny", "folder": "...", "threads": 1}'

Writes its ONNX file; its last line of output is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.benchmark_networks import NETWORKS, SEED, interface_of, write_graph
from benchmarks.calibrating.image_file import write_images
from benchmarks.calibrating.subjects import Subject

if TYPE_CHECKING:
    from torch import nn

SIDE = 96
CLASSES = 10
BRIGHTEST = 16.0
MEAN, DEVIATION = 0.31, 0.36
CALIBRATION, TEST = 200, 500
"""Images; what is left, 1,097, trains."""
BATCH = 32
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Training:
    """How long, and how fast it may learn."""

    epochs: int
    learning_rate: float


TRAINING: dict[str, Training] = {
    "resnet-18": Training(3, 2e-3),
    "resnet-50": Training(3, 2e-3),
    "mobilenet-v3": Training(8, 4e-3),
    "efficientnet-b0": Training(5, 4e-3),
    "repvgg-a0": Training(3, 2e-3),
    "vit-tiny": Training(10, 5e-4),
}


def main() -> None:
    asked = json.loads(sys.argv[1])
    started_s = time.perf_counter()
    images, labels = digits()
    network = trained(asked["network"], images[CALIBRATION + TEST :], labels[CALIBRATION + TEST :], asked["threads"])
    folder = Path(asked["folder"])
    write_images(images[:CALIBRATION], folder / "calibration.npy")
    write_images(images[CALIBRATION : CALIBRATION + TEST], folder / "test.npy")
    write_images(labels[CALIBRATION : CALIBRATION + TEST], folder / "labels.npy")
    interface = interface_of(NETWORKS[asked["network"]], channels=1, side=SIDE, classes=CLASSES)
    write_graph(network, interface, folder / f"{asked['network']}.onnx")
    print(json.dumps({"seconds": time.perf_counter() - started_s}))


def digits_subject(name: str, folder: Path) -> Subject:
    """The files that this module writes."""
    return Subject(
        name=f"{name}.digits",
        title=NETWORKS[name].title,
        graph=folder / f"{name}.onnx",
        calibration=folder / "calibration.npy",
        evaluation=folder / "test.npy",
        labels=folder / "labels.npy",
    )


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(1797, 1, 96, 96) and (1797,), in a seeded order."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import interpolate

    data = load_digits()
    small = torch.from_numpy(data.images.astype(np.float32))[:, None] / BRIGHTEST
    large = interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False).numpy()
    order = np.random.default_rng(SEED).permutation(len(large))
    return ((large - np.float32(MEAN)) / np.float32(DEVIATION))[order], data.target.astype(np.int64)[order]


def trained(name: str, images: NDArray[np.float32], labels: NDArray[np.int64], threads: int) -> nn.Module:
    """AdamW, a learning rate that rises for a tenth of the steps and falls as a cosine."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    interface = interface_of(NETWORKS[name], channels=1, side=SIDE, classes=CLASSES)
    network = NETWORKS[name].options.make(interface, Path()).train()
    settings = TRAINING[name]
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=WEIGHT_DECAY)
    steps = settings.epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps, pct_start=0.1)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(settings.epochs):
        for batch in torch.split(torch.randperm(len(x)), BATCH)[: steps // settings.epochs]:
            loss = cross_entropy(network(x[batch]), y[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        print(f"{name}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    _settle_batch_norms(network, x)
    return network.eval()


def _settle_batch_norms(network: nn.Module, images: Any) -> None:
    """Running averages lag behind weights that a short training moves fast: one pass sets them."""
    import torch
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        for batch in torch.split(images[: 8 * BATCH], BATCH):
            network(batch)


if __name__ == "__main__":
    main()
