"""What `edgestill quantize` and `edgestill sensitivity` are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.destination import Destination, destination_of
from pipeline.quantizing.inputs.calibration_images import images_from_text
from pipeline.quantizing.inputs.calibration_inputs import Preprocessing
from pipeline.quantizing.sensitivity.budget import Budget
from pipeline.quantizing.sensitivity.layer_costs import Sensitivity
from pipeline.quantizing.settings import DEFAULT_REPAIR, QuantizationSettings, checked_repair, checked_weights

PARTIAL = "sketches.partial"
"""Of a calibration that is not finished, and of one whose graphs are still judged."""


@dataclass(frozen=True)
class QuantizeRequest:
    """What the command line asked for."""

    model: Path
    data: Path
    families: tuple[str, ...]
    method: str
    preprocess: Preprocessing
    out: Path | None
    batch_size: int
    """Where the graph does not fix it."""
    threads: int
    cache_versions: tuple[str, ...] = ()
    """Versions of TensorRT that get a calibration cache."""
    explain: bool = False
    """Whether to print the reason of every node, not of the products in float alone."""
    repair: tuple[str, ...] = DEFAULT_REPAIR
    """What is tried, and kept where it brings something."""
    weights: str = "max"
    """What their scales come from."""
    budget: Budget | None = None
    """Layers stay in float until it holds."""
    sensitivity: Sensitivity = "off"
    validation: Path | None = None
    """On what graphs are judged; without it on the calibration data."""
    labels: Path | None = None
    images: str = "all"
    """How many of the data: all, auto or a number."""
    channel_extremes: bool = False
    bf16: bool = False
    """Whether bf16.onnx is written too."""
    sketches: tuple[Path, ...] = ()
    """Files of edgestill calibrate, one a shard, that the ranges come from; `data` is then for what else needs data."""

    @property
    def destination(self) -> Destination:
        """For the results; raises RecipeError."""
        return destination_of(self.model, self.out, self.families)

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        given = (self.model, self.data, self.preprocess, self.validation, self.labels, *self.sketches)
        return tuple(path for path in given if isinstance(path, Path))

    @property
    def settings(self) -> QuantizationSettings:
        return QuantizationSettings(
            self.method,
            self.families,
            self.threads,
            self.cache_versions,
            checked_weights(self.weights),
            checked_repair(self.repair),
            images_from_text(self.images),
            self.channel_extremes,
            self.bf16,
        )
