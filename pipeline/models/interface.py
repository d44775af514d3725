"""What a network takes and gives: named inputs with named axes, named outputs, how many classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

IMAGE = "input"
"""The one input of image data."""
IMAGE_AXES = ("channels", "height", "width")
MASK = "mask"
"""An input of this name says what is real (1) and what is padding (0): (batch, length)."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputSpec:
    """One input; shape and axes are those of one sample, without the batch."""

    name: str
    dtype: str
    shape: Shape
    axes: tuple[str, ...]

    def axes_sizes(self) -> dict[str, int]:
        """Size by the name of the axis."""
        return dict(zip(self.axes, self.shape, strict=True))


@dataclass(frozen=True)
class Interface:
    """Of a teacher and its student alike."""

    inputs: tuple[InputSpec, ...]
    outputs: Mapping[str, Shape | None]
    """Shape of one sample's output, by name; None where the task leaves it to the network."""
    classes: int

    @property
    def input_names(self) -> tuple[str, ...]:
        """In the order in which a network takes them."""
        return tuple(spec.name for spec in self.inputs)

    def is_one_image(self) -> bool:
        """Whether the only input is an image of (channels, height, width)."""
        return len(self.inputs) == 1 and self.inputs[0].axes == IMAGE_AXES

    def axes(self) -> dict[str, int]:
        """Size of every named axis of the inputs."""
        return {name: size for spec in self.inputs for name, size in spec.axes_sizes().items()}

    def zeros(self, batch_size: int) -> tuple[Tensor, ...]:
        """Inputs of zeros, and masks of ones: a sample that is all padding is none."""
        import torch

        return tuple(
            torch.from_numpy(np.full((batch_size, *spec.shape), 1 if spec.name == MASK else 0, np.dtype(spec.dtype)))
            for spec in self.inputs
        )

    def to_json(self) -> dict[str, Any]:
        """For `model.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Interface:
        """What `to_json` gave."""
        inputs = tuple(
            InputSpec(each["name"], each["dtype"], tuple(each["shape"]), tuple(each["axes"]))
            for each in document["inputs"]
        )
        outputs = {name: None if shape is None else tuple(shape) for name, shape in document["outputs"].items()}
        return cls(inputs, outputs, document["classes"])


def named_outputs(found: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """What a network returned, by name: a tensor, a tuple or list in the task's order, or a dict.

    Raises ValueError with what was found where it does not pair with the names.
    """
    import torch

    if isinstance(found, torch.Tensor):
        found = (found,)
    if isinstance(found, Mapping):
        if set(found) != set(names):
            raise ValueError(f"gives outputs {', '.join(map(str, found))}; the task wants {', '.join(names)}")
        found = [found[name] for name in names]
    if not isinstance(found, (tuple, list)) or not all(isinstance(each, torch.Tensor) for each in found):
        raise ValueError(f"gives {type(found).__name__}; give a tensor, or one for each of {', '.join(names)}")
    if len(found) != len(names):
        raise ValueError(f"gives {len(found)} outputs; the task wants {len(names)}: {', '.join(names)}")
    return dict(zip(names, found, strict=True))
