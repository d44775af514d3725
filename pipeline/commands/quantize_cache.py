"""`edgestill quantize --cache`: Q/DQ graphs from the calibration cache of a TensorRT, without data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.counting import counted
from calibration.errors import CalibrationError, GraphRefused
from calibration.placement.families import FAMILY
from engines.files import sha256_of_file
from pipeline.commands.destination import Destination, destination_of
from pipeline.commands.earlier_files import EarlierFiles, removed_in_words
from pipeline.commands.explain import explanation
from pipeline.commands.findings import finding_lines, refusal
from pipeline.commands.outcome import Outcome
from pipeline.errors import DataRejected, IntegrityError, NotAcceptable, RecipeError
from pipeline.files import atomic
from pipeline.files.onnx_file import loaded_graph, write_graph
from pipeline.files.workspace import disk_errors_explained
from pipeline.quantizing.quantized import FLOAT16, PLACEMENT, PLACEMENT_SCHEMA_VERSION
from pipeline.quantizing.settings import (
    QuantizationSettings,
    checked_cache_versions,
    checked_families,
    resolved_family,
)
from pipeline.quantizing.tensorrt_ranges import check_graph_beside_caches, for_tensorrt

if TYPE_CHECKING:
    import onnx

    from calibration.lint import Finding
    from calibration.placement.place import Placement
    from calibration.ranges import Ranges
    from calibration.tensorrt_cache.origin import CacheOrigin


NO_FLOAT16 = "no FP16 graph, because a cache does not say how large the values were that it cuts off"


@dataclass(frozen=True)
class CacheRequest:
    """What the command line asked for."""

    model: Path
    cache: Path
    families: tuple[str, ...]
    out: Path | None
    cache_versions: tuple[str, ...] = ()
    """Other versions of TensorRT that the same ranges are written for."""
    explain: bool = False
    """Whether to print the reason of every node."""


@dataclass(frozen=True)
class _Converted:
    model: onnx.ModelProto
    ranges: Ranges
    placements: dict[str, Placement]
    int8: dict[str, onnx.ModelProto]
    unused: int
    """Scales of the cache that no tensor of the graph has: what TensorRT's parser invents, or of another graph."""
    warnings: tuple[Finding, ...]
    """About the scales."""


def quantize_cache(request: CacheRequest) -> Outcome:
    """Writes ranges.json, placement.json and <family>.int8.onnx; each scale is the cache's, bit for bit.

    Raises IntegrityError where the cache's own record says that it is of another graph, DataRejected where it lacks a
    scale that the graph needs, or has one that the linter refuses.
    """
    _check(request)
    check_graph_beside_caches(request.model, request.cache_versions)
    to = destination_of(request.model, request.out, request.families)
    converted = _converted(request, _verified_origin(request))
    earlier = EarlierFiles.beside(to)
    files = _write(request, converted, to)
    removed = earlier.remove((*files, request.model, request.cache, *earlier.of_calibration(request.cache)))
    document = {
        "model": str(request.model),
        "cache": str(request.cache),
        "images": converted.ranges.images,
        "method": converted.ranges.method,
        "unused_scales": converted.unused,
        "files": [str(file) for file in files],
        "removed": [str(file) for file in removed],
        "warnings": [finding.to_json() for finding in converted.warnings],
        "placement": _placements(converted),
    }
    belong = "belongs" if converted.unused == 1 else "belong"
    lines = [
        *(line for family in request.families for line in _said(request, family, converted.placements[family])),
        *finding_lines(converted.warnings),
        f"{counted(converted.unused, 'scale')} of {request.cache.name} {belong} to no tensor of the graph",
        NO_FLOAT16,
        *removed_in_words(removed),
        *(f"wrote {file}" for file in files),
    ]
    return Outcome(document, lambda console: console.print("\n".join(lines), markup=False, soft_wrap=True))


def _said(request: CacheRequest, family: str, placement: Placement) -> list[str]:
    lines = list(explanation(family, placement))
    return lines if request.explain else lines[:1]


def _check(request: CacheRequest) -> None:
    try:
        checked_families(request.families)
        checked_cache_versions(request.cache_versions)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    for path in (request.model, request.cache):
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such file")
    for family in request.families:
        if not FAMILY[resolved_family(family)].symmetric_activations:
            raise RecipeError(
                f"family '{family}' wants the low and the high end of each range, and a calibration cache holds the "
                "larger of the two: give --data in place of --cache"
            )


def _verified_origin(request: CacheRequest) -> CacheOrigin | None:
    """What lies beside the cache; a cache of somebody else's has nothing there."""
    from calibration.tensorrt_cache.origin import loaded_origin

    try:
        origin = loaded_origin(request.cache)
    except CalibrationError as error:
        raise IntegrityError(str(error)) from error
    if origin is None:
        return None
    if sha256_of_file(request.cache) != origin.sha256:
        raise IntegrityError(
            f"{request.cache}: is not what was written: SHA-256 differs from the one in {request.cache.name}.json; "
            "write it again, or move that file away to take the cache as it is"
        )
    if sha256_of_file(request.model) not in (origin.graph.sha256, origin.source.sha256):
        raise IntegrityError(
            f"{request.cache}: is of {origin.graph.name}, calibrated from {origin.source.name}, and "
            f"{request.model} is neither: give that graph, or calibrate this one with --data"
        )
    return origin


def _converted(request: CacheRequest, origin: CacheOrigin | None) -> _Converted:
    from calibration.graph import Graph
    from calibration.placement.place import place
    from calibration.prepare import prepared
    from calibration.qdq import quantize
    from calibration.ranges import Ranges
    from calibration.tensorrt_cache.cache import CalibrationCache

    try:
        cache = CalibrationCache.load(request.cache)
        given = loaded_graph(request.model)
        warnings = _warnings(request, given)
        model = prepared(given)
        placements = {family: place(model, resolved_family(family)) for family in request.families}
        needed = (each.range_from for placement in placements.values() for each in placement.activations)
        named = {*Graph(model).inputs, *(name for node in model.graph.node for name in node.output)}
        found = cache.ranges(dict.fromkeys(needed), 0 if origin is None else origin.images, named)
        tensors = {name: each for name, each in found.tensors.items() if name in named}
        ranges = Ranges(found.method, found.images, tensors)
        int8 = {family: quantize(model, ranges, placement) for family, placement in placements.items()}
    except GraphRefused as error:
        raise NotAcceptable(f"{request.model.name}: {error}") from error
    except CalibrationError as error:
        raise DataRejected(str(error)) from error
    return _Converted(model, ranges, placements, int8, len(cache.scales.keys() - named), warnings)


def _warnings(request: CacheRequest, given: onnx.ModelProto) -> tuple[Finding, ...]:
    """What the linter says of the scales; raises DataRejected with its errors."""
    from calibration.tensorrt_cache.lint import lint_scales
    from calibration.tensorrt_cache.subject import LintedGraph, Subject

    graph = LintedGraph(given, sha256_of_file(request.model))
    found = lint_scales(Subject(request.cache.read_bytes(), None, graph, None))
    if errors := [finding for finding in found if finding.severity == "error"]:
        raise DataRejected(f"{request.cache}: {refusal(errors)}")
    return found


def _write(request: CacheRequest, converted: _Converted, to: Destination) -> list[Path]:
    settings = QuantizationSettings("", (), cache_versions=request.cache_versions)
    beside = for_tensorrt(converted.model, converted.ranges, settings, request.model)
    with disk_errors_explained(to.folder):
        to.folder.mkdir(parents=True, exist_ok=True)
        files = [to.path(name) for name in ("ranges.json", PLACEMENT)]
        with atomic.replacing(files[0]) as ranges:
            converted.ranges.save(ranges)
        atomic.write_json(files[1], _placements(converted))
        for family, model in converted.int8.items():
            files += write_graph(to.path(f"{family}.int8.onnx"), model)
        return files if beside is None else files + beside.write(to.folder, f"{to.stem}.")


def _placements(converted: _Converted) -> dict[str, Any]:
    placements = {family: placement.to_json() for family, placement in converted.placements.items()}
    return {
        "schema_version": PLACEMENT_SCHEMA_VERSION,
        "families": placements,
        "repairs": [],
        "float32_in_fp16": {},
        "missing_graphs": {FLOAT16: NO_FLOAT16},
    }
