"""What the settings of every built-in network share: how its network is made, and what must fit together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from pipeline.models.interface import Interface
from pipeline.models.network_suitability import refuse_unless_suited

if TYPE_CHECKING:
    from torch import nn


class NetworkSettings(BaseModel, ABC):
    """A network that a recipe names; its fields are the options beside the name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str

    def make(self, interface: Interface, recipe_folder: Path) -> nn.Module:
        """A network with fresh weights from torch's random state; raises RecipeError where it is not for the data."""
        del recipe_folder
        refuse_unless_suited(self.name, interface)
        return self.network(interface)

    @abstractmethod
    def network(self, interface: Interface) -> nn.Module:
        """Of an interface that suits it. Imports torch."""


def require_a_depth_each_width(depths: Sequence[int], widths: Sequence[int]) -> None:
    """Raises ValueError where their numbers differ."""
    if len(depths) != len(widths):
        raise ValueError(f"depths has {len(depths)} values and widths {len(widths)}; give one a width")


def require_heads_of_one_size(width: int, heads: int) -> None:
    """Raises ValueError where the heads do not divide the width."""
    if width % heads:
        raise ValueError(f"width {width} is not divisible by heads {heads}; give a multiple of it")
