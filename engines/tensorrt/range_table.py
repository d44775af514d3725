"""The amax of each tensor of one ONNX file, read from the JSON that calibration wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import BuildFailed, EngineDamaged
from engines.files import sha256_of_file

KIND = "tensorrt-ranges"
SCHEMA_VERSION = 1

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class RangeTable:
    """What INT8 covers of each tensor: [-amax, amax]."""

    graph: str
    """Name of the ONNX file whose tensors are meant."""
    graph_sha256: str
    method: str
    images: int
    amax: Mapping[str, float]

    @classmethod
    def load(cls, path: Path) -> RangeTable:
        """Raises EngineDamaged where the file is anything but a table of ranges."""
        try:
            return _table_from_json(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise EngineDamaged(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineDamaged(f"{path}: is no table of ranges ({error!r}); calibrate again") from error

    def origin(self) -> dict[str, Any]:
        """What an engine's record says of the table."""
        return {"graph": self.graph, "graph_sha256": self.graph_sha256, "method": self.method, "images": self.images}

    def check_graph(self, graph: Path) -> None:
        """Raises BuildFailed where the file is not the one whose tensors the table names."""
        try:
            found = sha256_of_file(graph)
        except OSError as error:
            raise BuildFailed(f"{graph}: cannot be read ({error.strerror})") from error
        if found != self.graph_sha256:
            raise BuildFailed(
                f"{graph}: SHA-256 is {found[:12]}…, and the table of ranges is of {self.graph} with "
                f"{self.graph_sha256[:12]}…; build from that file, or calibrate this one"
            )


def _table_from_json(document: Mapping[str, Any]) -> RangeTable:
    if (document["kind"], document["schema_version"]) != (KIND, SCHEMA_VERSION):
        found = f"{document['kind']} {document['schema_version']}"
        raise ValueError(f"it is {found}, this version reads {KIND} {SCHEMA_VERSION}")
    graph = document["graph"]
    amax = {name: _amax(name, entry["amax"]) for name, entry in document["tensors"].items()}
    if not amax:
        raise ValueError("it lists no tensor")
    return RangeTable(str(graph["name"]), str(graph["sha256"]), str(document["method"]), int(document["images"]), amax)


def _amax(tensor: str, value: Any) -> float:
    """What `set_dynamic_range` takes: positive, finite, and so in float32."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"the amax of tensor {tensor!r} is {value!r}, no number")
    if not math.isfinite(value) or not 0 < value <= _LARGEST:
        raise ValueError(f"the amax of tensor {tensor!r} is {value!r}; INT8 needs a finite one above zero")
    return float(value)
