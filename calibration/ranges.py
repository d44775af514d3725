"""Ranges by tensor: from sketches, to and from JSON. They depend on data and method, never on the target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError
from calibration.methods.method import Range
from calibration.methods.method_text import method_from_text, text_from_method
from calibration.scale import nearest_float32
from calibration.statistics import Sketches

__all__ = ["Range", "Ranges", "ranges_from_sketches"]

_SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Ranges:
    """The range of each measured tensor, the method that chose them and the number of images behind them."""

    method: str
    images: int
    tensors: Mapping[str, Range]
    methods: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Of tensors whose range another method chose than `method` says."""

    def method_of(self, tensor: str) -> str:
        """That chose the range of a tensor."""
        return self.methods.get(tensor, self.method)

    def of(self, tensor: str) -> Range:
        """The range of a tensor. Raises CalibrationError naming it where it was not measured."""
        try:
            return self.tensors[tensor]
        except KeyError:
            raise CalibrationError(
                f"tensor {tensor!r} has no range; calibrate the same prepared graph that is quantized"
            ) from None

    def save(self, path: Path) -> None:
        """Writes JSON whose bytes depend on the ranges alone; floats come back bit for bit."""
        write_json(self.to_json(), path)

    def to_json(
        self, evidence: Mapping[str, Mapping[str, Any]] | None = None, more: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A document for `write_json`: `evidence` stands beside the range of each tensor, `more` beside them all."""
        beside = evidence or {}
        return {
            "schema_version": _SCHEMA_VERSION,
            "method": self.method,
            "images": self.images,
            **(more or {}),
            "tensors": {
                name: {"low": each.low, "high": each.high, **beside.get(name, {})}
                for name, each in sorted(self.tensors.items())
            },
        }

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Reads what `save` wrote. Raises CalibrationError on anything else, NaN and infinity included."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema_version"] != _SCHEMA_VERSION:
                raise ValueError(f"schema_version is {document['schema_version']}, not {_SCHEMA_VERSION}")
            tensors = {name: _range_from_json(name, entry) for name, entry in document["tensors"].items()}
            return cls(str(document["method"]), int(document["images"]), tensors)
        except CalibrationError as error:
            raise CalibrationError(f"{path}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(f"{path}: not a file of ranges ({error!r}); run calibration again") from error


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """The same bytes for the same document."""
    # Python prints the shortest digits that read back as the same float.
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def ranges_from_sketches(sketches: Sketches, method_text: str) -> Ranges:
    """Applies a method, such as `entropy` or `percentile:99.9`, to every tensor.

    Raises CalibrationError where there is no such method, or where no image was measured.
    """
    method = method_from_text(method_text)
    if sketches.images == 0:
        raise CalibrationError("the sketches hold no images; calibrate with at least one")
    tensors = {name: _in_float32(method.range_of(sketches.tensors[name])) for name in sorted(sketches.tensors)}
    return Ranges(text_from_method(method), sketches.images, tensors)


def _in_float32(chosen: Range) -> Range:
    """Its ends as runtimes hold them, so that each makes the same scale of them (`calibration.scale`)."""
    return Range(nearest_float32(chosen.low), nearest_float32(chosen.high))


def _range_from_json(name: str, entry: Mapping[str, float]) -> Range:
    try:
        return Range(float(entry["low"]), float(entry["high"]))
    except CalibrationError as error:
        raise CalibrationError(f"tensor {name!r}: {error}") from error
