"""A network with the images it is calibrated and judged on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.benchmark_networks import NETWORKS, graph_of, images
from benchmarks.calibrating.image_file import write_images

CALIBRATION_SEED, EVALUATION_SEED = 1, 2


@dataclass(frozen=True)
class Subject:
    """Files of one network."""

    name: str
    title: str
    graph: Path
    calibration: Path
    evaluation: Path
    labels: Path | None


def drawn_subject(name: str, folder: Path, calibration_images: int, evaluation_images: int) -> Subject:
    """A network of seeded weights on photographs; its files are made where they are not there yet."""
    return Subject(
        name=name,
        title=NETWORKS[name].title,
        graph=graph_of(name, folder / "onnx"),
        calibration=image_file(folder, calibration_images, CALIBRATION_SEED),
        evaluation=image_file(folder, evaluation_images, EVALUATION_SEED),
        labels=None,
    )


def image_file(folder: Path, count: int, seed: int) -> Path:
    """Images of a seed; fewer of them are the first of more."""
    path = folder / "images" / f"{seed}-{count}.npy"
    if not path.is_file():
        write_images(images(count, seed), path)
    return path
