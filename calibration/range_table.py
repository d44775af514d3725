"""The amax of every float tensor of one graph: what a device binds to its own parsed network, and a cache holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.graph import Graph
from calibration.ranges import Ranges
from calibration.scale import INT8_LEVELS, LEAST_SCALE, amax_from_scale, scale_from_amax

KIND = "tensorrt-ranges"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GraphFile:
    """The file whose tensors are meant, and no other."""

    name: str
    sha256: str


@dataclass(frozen=True)
class TensorAmax:
    """The largest magnitude that INT8 covers of one tensor."""

    amax: float
    """Positive; `scale_from_amax(amax)` is the scale of the tensor's Q/DQ pair, bit for bit."""
    like: str | None = None
    """The tensor whose range it is, where the tensor itself was not measured: what only a Relu or Clip reads."""


@dataclass(frozen=True)
class RangeTable:
    """What `ITensor.set_dynamic_range` is to be told of each tensor of one graph."""

    graph: GraphFile
    method: str
    images: int
    tensors: Mapping[str, TensorAmax]

    def to_json(self) -> dict[str, Any]:
        """A document for `json.dumps`; numbers come back bit for bit."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "graph": {"name": self.graph.name, "sha256": self.graph.sha256},
            "method": self.method,
            "images": self.images,
            "tensors": {
                name: {"amax": each.amax, **({"like": each.like} if each.like else {})}
                for name, each in self.tensors.items()
            },
        }

    def to_bytes(self) -> bytes:
        """The same for the same ranges."""
        return (json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def range_table(model: ModelProto, ranges: Ranges, graph: GraphFile) -> RangeTable:
    """Covers each float activation of the measured graph, in its order.

    A tensor that only a Relu or Clip reads gets the range behind it: what that range cuts off, the operator cuts off
    anyway. Raises CalibrationError where a tensor was not measured.
    """
    index = Graph(model)
    measured = {name: TensorAmax(covered_amax(ranges.of(name).amax)) for name in index.activations()}
    written = (name for node in index.nodes for name in node.output if name and index.is_float(name))
    tensors = {
        name: measured[name] if name in measured else _like(index, name, measured)
        for name in dict.fromkeys((*(name for name in index.inputs if name in measured), *written))
    }
    return RangeTable(graph, ranges.method, ranges.images, tensors)


def covered_amax(measured: float) -> float:
    """What the stored scale covers: 127 for a tensor that is all zero, at least what runtimes do not flush to zero."""
    return measured if measured >= LEAST_SCALE * INT8_LEVELS else amax_from_scale(scale_from_amax(measured))


def _like(graph: Graph, tensor: str, measured: Mapping[str, TensorAmax]) -> TensorAmax:
    """Of a tensor that was not measured because a Relu or Clip alone reads it, which another may read in turn."""
    behind = tensor
    while behind not in measured:
        reader = graph.sole_reader(behind)
        if reader is None:
            raise CalibrationError(f"tensor {behind!r} has no range; calibrate the same prepared graph")
        behind = str(reader.output[0])
    return TensorAmax(measured[behind].amax, like=behind)
