"""What the families of one run have in common, where a repair changes the model that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.quantizing.settings import resolved_family

if TYPE_CHECKING:
    from onnx import ModelProto

    from calibration.repairs.shift_sites import Room


def takes_shift(family: str) -> bool:
    """Whether its grids lack the zero-point that a shift stands in for."""
    from calibration.placement.families import FAMILY

    return FAMILY[resolved_family(family)].rules == "tensorrt"


def room_of(families: Sequence[str]) -> Room:
    """Where a shift costs none of the families a kernel."""
    from calibration.placement.families import FAMILY
    from calibration.repairs.shift_sites import APART, Room

    return APART if all(FAMILY[resolved_family(family)].requantizes_apart for family in families) else Room()


def products_of_all(model: ModelProto, families: Sequence[str]) -> frozenset[str]:
    """Nodes that each family runs in INT8."""
    from calibration.placement.place import place

    placed = [frozenset(place(model, resolved_family(family)).quantized_nodes) for family in families]
    return frozenset.intersection(*placed)
