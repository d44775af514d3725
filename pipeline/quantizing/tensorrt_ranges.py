"""For TensorRT 8.x to 10.x with implicit INT8: the graph that was measured, its range table, a cache per version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.errors import CalibrationError
from calibration.tensorrt_cache.version import CacheVersion, wanted_version
from engines.files import sha256_of_file
from pipeline.errors import NotAcceptable, RecipeError
from pipeline.files import atomic
from pipeline.files.onnx_file import loaded_graph, write_graph
from pipeline.quantizing.settings import QuantizationSettings, check_opset_beside_caches

if TYPE_CHECKING:
    import onnx

    from calibration.range_table import RangeTable
    from calibration.ranges import Ranges

MEASURED_GRAPH = "fp32.onnx"
RANGE_TABLE = "ranges-tensorrt.json"
FAMILIES_WITH_RANGES = ("tensorrt", "tensorrt-dla")
"""Their runtimes can still take ranges beside a float graph; TensorRT 11 and TensorRT-RTX cannot."""


@dataclass(frozen=True)
class ForTensorRT:
    """The measured graph with all that goes beside it, in memory."""

    measured: onnx.ModelProto
    table: RangeTable
    """Of a graph file that is not written yet."""
    caches: Mapping[CacheVersion, bytes]
    source: Path
    """The file that was calibrated."""

    def write(self, folder: Path, prefix: str = "") -> list[Path]:
        """Gives what it wrote. The record of a cache is there before the cache, which no kill leaves without one."""
        from calibration.range_table import GraphFile
        from calibration.tensorrt_cache.origin import origin_of, sidecar_of

        graph = folder / f"{prefix}{MEASURED_GRAPH}"
        written = write_graph(graph, self.measured)
        table = replace(self.table, graph=GraphFile(graph.name, sha256_of_file(graph)))
        atomic.write_bytes(folder / f"{prefix}{RANGE_TABLE}", table.to_bytes())
        written.append(folder / f"{prefix}{RANGE_TABLE}")
        calibrated = GraphFile(self.source.name, sha256_of_file(self.source))
        for version, data in self.caches.items():
            cache = folder / f"{prefix}{_cache_name(version)}"
            atomic.write_bytes(sidecar_of(cache), origin_of(data, version, table, calibrated).to_bytes())
            atomic.write_bytes(cache, data)
            written += [cache, sidecar_of(cache)]
        return written


def check_graph_beside_caches(graph: Path, cache_versions: Sequence[str]) -> None:
    """Raises RecipeError where a TensorRT that is to take a cache could not read the graph that lies beside it."""
    from calibration.prepare import opset_of

    if not cache_versions:
        return
    try:
        check_opset_beside_caches(opset_of(loaded_graph(graph)), cache_versions)
    except ValueError as error:
        raise RecipeError(f"{graph}: {error}") from error


def for_tensorrt(
    measured: onnx.ModelProto, ranges: Ranges, settings: QuantizationSettings, source: Path
) -> ForTensorRT | None:
    """None where no family and no cache asks for it; writes nothing.

    `source` is the file that was calibrated. Raises NotAcceptable where a tensor has no range, or a name that no cache
    can hold.
    """
    from calibration.range_table import GraphFile, range_table
    from calibration.tensorrt_cache.cache import CalibrationCache

    if not settings.cache_versions and not set(settings.families) & set(FAMILIES_WITH_RANGES):
        return None
    try:
        table = range_table(measured, ranges, GraphFile("", ""))
        versions = map(wanted_version, settings.cache_versions)
        caches = {version: CalibrationCache.from_table(table, version).to_bytes() for version in versions}
    except CalibrationError as error:
        raise NotAcceptable(f"{source.name}: {error}") from error
    return ForTensorRT(measured, table, caches, source)


def table_of_conversion(table: Path, graph: Path, to: Path) -> Path:
    """The same ranges for a graph that was converted to another opset, whose tensors keep their names; writes `to`.

    What the conversion renamed has no range then, which the build says.
    """
    document = json.loads(table.read_text(encoding="utf-8"))
    document["graph"] = {"name": graph.name, "sha256": sha256_of_file(graph)}
    atomic.write_json(to, document)
    return to


def _cache_name(version: CacheVersion) -> str:
    other = "" if version.calibrator == "EntropyCalibration2" else f"-{version.calibrator}"
    return f"tensorrt-{version.release}{other}.cache"
