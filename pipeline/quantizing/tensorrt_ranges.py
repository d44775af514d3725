"""For TensorRT 8.x to 10.x with implicit INT8: the graph that was measured, its range table, a cache per version."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.errors import CalibrationError
from calibration.tensorrt_cache.version import CacheVersion, wanted_version
from engines.files import sha256_of_file
from pipeline.errors import NotAcceptable
from pipeline.files import atomic
from pipeline.files.onnx_file import remove_graph, write_graph
from pipeline.quantizing.settings import QuantizationSettings

if TYPE_CHECKING:
    import onnx

    from calibration.range_table import RangeTable
    from calibration.ranges import Ranges

MEASURED_GRAPH = "fp32.onnx"
RANGE_TABLE = "ranges-tensorrt.json"
FAMILIES_WITH_RANGES = ("tensorrt", "tensorrt-dla")
"""Their runtimes can still take ranges beside a float graph; TensorRT 11 and TensorRT-RTX cannot."""


def write_for_tensorrt(
    measured: onnx.ModelProto,
    ranges: Ranges,
    settings: QuantizationSettings,
    source: Path,
    folder: Path,
    prefix: str = "",
) -> list[Path]:
    """The measured graph, its range table, each cache with its origin; nothing where no family and no cache asks.

    `source` is the file that was calibrated. Raises NotAcceptable where a tensor has no range, or a name that no cache
    can hold.
    """
    from calibration.range_table import GraphFile, range_table

    if not settings.cache_versions and not set(settings.families) & set(FAMILIES_WITH_RANGES):
        return []
    graph = folder / f"{prefix}{MEASURED_GRAPH}"
    written = write_graph(graph, measured)
    try:
        table = range_table(measured, ranges, GraphFile(graph.name, sha256_of_file(graph)))
        files = dict(_files(table, source, settings.cache_versions, prefix))
    except CalibrationError as error:
        remove_graph(graph)
        raise NotAcceptable(f"{source.name}: {error}") from error
    for name, data in files.items():
        atomic.write_bytes(folder / name, data)
    return [*written, *(folder / name for name in files)]


def table_of_conversion(table: Path, graph: Path, to: Path) -> Path:
    """The same ranges for a graph that was converted to another opset, whose tensors keep their names; writes `to`.

    What the conversion renamed has no range then, which the build says.
    """
    document = json.loads(table.read_text(encoding="utf-8"))
    document["graph"] = {"name": graph.name, "sha256": sha256_of_file(graph)}
    atomic.write_json(to, document)
    return to


def _files(table: RangeTable, source: Path, versions: Sequence[str], prefix: str) -> Iterator[tuple[str, bytes]]:
    from calibration.range_table import GraphFile
    from calibration.tensorrt_cache.cache import CalibrationCache
    from calibration.tensorrt_cache.origin import origin_of

    yield f"{prefix}{RANGE_TABLE}", table.to_bytes()
    calibrated = GraphFile(source.name, sha256_of_file(source))
    for version in map(wanted_version, versions):
        cache = CalibrationCache.from_table(table, version).to_bytes()
        file = f"{prefix}{_cache_name(version)}"
        yield file, cache
        yield f"{file}.json", origin_of(cache, version, table, calibrated).to_bytes()


def _cache_name(version: CacheVersion) -> str:
    other = "" if version.calibrator == "EntropyCalibration2" else f"-{version.calibrator}"
    return f"tensorrt-{version.release}{other}.cache"
