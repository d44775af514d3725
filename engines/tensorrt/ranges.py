"""Ranges of calibration, bound to the network that the device's own TensorRT parsed: implicit INT8 of 8.6 to 10.x.

TensorRT runs a layer in float, without a word, where one of its tensors has no range. The parser invents tensors that
no calibration knows; here each gets a range that follows from its neighbours, or is a gap that stops the build.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.errors import BuildFailed
from engines.tensorrt.api import INetworkDefinition, ITensor, Module
from engines.tensorrt.parsed_network import ParsedNetwork, parsed_network
from engines.tensorrt.range_rules import BY_NAME, Known, TensorRange
from engines.tensorrt.range_table import RangeTable

_INT8_LEVELS = 127
_NAMED = 5  # gaps in an error


@dataclass(frozen=True)
class Gap:
    """A float tensor that has no range: TensorRT would run the layers around it in float."""

    tensor: str
    writer: str
    readers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Coverage:
    """What a table of ranges says of the float tensors of a network."""

    ranges: Mapping[str, TensorRange]
    gaps: tuple[Gap, ...]
    unused: tuple[str, ...]
    """Tensors of the table that the network does not have: the parser has fused or renamed them."""

    @property
    def invented(self) -> int:
        """Tensors whose range follows from a layer."""
        return sum(found.source != BY_NAME for found in self.ranges.values())

    def to_json(self) -> dict[str, Any]:
        """In numbers and, as `said`, in words."""
        return {
            "tensors": len(self.ranges) + len(self.gaps),
            "by_name": len(self.ranges) - self.invented,
            "by_layer": self.invented,
            "unused": len(self.unused),
            "said": str(self),
        }

    def __str__(self) -> str:
        known = len(self.ranges) - self.invented
        return (
            f"{len(self.ranges)} of {len(self.ranges) + len(self.gaps)} float tensors have a range: "
            f"{known} by name, {self.invented} by what the parser made of them; "
            f"{len(self.unused)} names of the table are not in the network"
        )


def coverage_of(trt: Module, network: INetworkDefinition, table: RangeTable) -> Coverage:
    """What `bind_ranges` would bind, whatever the version of TensorRT; binds nothing."""
    return _coverage(parsed_network(trt, network), table)


def bind_ranges(trt: Module, network: INetworkDefinition, table: RangeTable) -> Coverage:
    """Gives every float tensor of the network its range.

    Raises BuildFailed naming tensor and layer where one has none, before anything is bound; where TensorRT does not
    take a range; and from TensorRT 11 on, which takes none.
    """
    require_implicit_int8(trt)
    parsed = parsed_network(trt, network)
    coverage = _coverage(parsed, table)
    _require_all(coverage, table)
    for name, found in coverage.ranges.items():
        _bind(parsed.tensors[name], found.amax)
    return coverage


def require_implicit_int8(trt: Module) -> None:
    """Raises BuildFailed where this module has none: TensorRT 11 and TensorRT-RTX."""
    if not hasattr(trt.ITensor, "set_dynamic_range"):
        raise BuildFailed(
            f"{trt.__name__} {trt.__version__} takes no ranges beside a graph: build the Q/DQ graph of the calibration"
        )


def _coverage(parsed: ParsedNetwork, table: RangeTable) -> Coverage:
    by_name = {name: TensorRange(table.amax[name], BY_NAME) for name in parsed.tensors if name in table.amax}
    known = Known(parsed, by_name)
    known.complete()
    covered = {name: found for name, found in known.ranges.items() if math.isfinite(found.amax)}
    return Coverage(
        {name: _bindable(covered[name]) for name in parsed.tensors if name in covered},
        tuple(_gap(parsed, name, known.ranges.get(name)) for name in parsed.tensors if name not in covered),
        tuple(name for name in table.amax if name not in parsed.tensors),
    )


def _bindable(found: TensorRange) -> TensorRange:
    """A constant of zeros has any range; the one with the scale 1."""
    return found if found.amax > 0 else TensorRange(float(_INT8_LEVELS), found.source)


def _gap(parsed: ParsedNetwork, tensor: str, found: TensorRange | None) -> Gap:
    writer = parsed.writer.get(tensor)
    return Gap(
        tensor,
        "the network's input" if writer is None else str(writer),
        tuple(str(reader) for reader in parsed.readers.get(tensor, ())),
        "is in no table and follows from no neighbour" if found is None else "holds an infinity or NaN",
    )


def _require_all(coverage: Coverage, table: RangeTable) -> None:
    if len(coverage.unused) == len(table.amax):
        raise BuildFailed(
            f"no tensor of the network is in the table of ranges of {table.graph}: it is of another graph; "
            "parse that file, or calibrate the one that is built"
        )
    if not coverage.gaps:
        return
    said = "; ".join(f"{gap.tensor!r}, written by {gap.writer}, {gap.reason}" for gap in coverage.gaps[:_NAMED])
    more = f"; and {len(coverage.gaps) - _NAMED} more" if len(coverage.gaps) > _NAMED else ""
    raise BuildFailed(
        f"{len(coverage.gaps)} tensors of the network have no range, and TensorRT would run the layers around them in "
        f"float without a word: {said}{more}. Write the operator that the parser takes apart as its parts in the ONNX "
        "file, calibrate that, or build the Q/DQ graph"
    )


def _bind(tensor: ITensor, amax: float) -> None:
    taken = tensor.set_dynamic_range(-amax, amax)
    bound = tensor.dynamic_range
    if not taken or bound is None or np.float32(bound[1]) != np.float32(amax):
        raise BuildFailed(
            f"TensorRT did not take the range [-{amax:g}, {amax:g}] of tensor {tensor.name!r}: it has {bound}"
        )
