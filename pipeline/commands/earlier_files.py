"""What an earlier `quantize` wrote beside the same stem and this one does not: it is of another calibration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.placement.families import FAMILY
from engines.files import sha256_of_file
from pipeline.artifact import SENSITIVITY
from pipeline.commands.destination import Destination
from pipeline.commands.judging import EVALUATIONS
from pipeline.files.onnx_file import remove_graph, weights_file
from pipeline.files.workspace import disk_errors_explained
from pipeline.quantizing.quantized import BFLOAT16, FLOAT16, PLACEMENT
from pipeline.quantizing.tensorrt_ranges import MEASURED_GRAPH, RANGE_TABLE

if TYPE_CHECKING:
    from calibration.tensorrt_cache.origin import CacheOrigin

_RANGES = "ranges.json"
_CACHE = r"tensorrt-\d+\.\d+\.\d+(?:-\w+)?\.cache"
_FORMS = ("int8.onnx", "int8+fp16.onnx", "fp8.onnx")


@dataclass(frozen=True)
class EarlierFiles:
    """Files of ours, as they were before anything was written."""

    quantized: tuple[Path, ...]
    """Graphs."""
    for_tensorrt: tuple[Path, ...]
    """The measured graph, its range table, caches and their records."""
    judged: tuple[Path, ...]
    ranges: Path
    ranges_sha256: str
    """Of the ranges that all of them are of; empty where there were none."""

    @classmethod
    def beside(cls, to: Destination) -> EarlierFiles:
        """By name, and by what our own records say where somebody else may have given a file that name."""
        if not to.folder.is_dir():
            return cls((), (), (), to.path(_RANGES), "")
        with disk_errors_explained(to.folder):
            quantized = (*_of_families(to), *_of_sixteen_bits(to))
            for_tensorrt = (*_measured(to), *_of_tensorrt(to))
            return cls(quantized, for_tensorrt, tuple(_of_judging(to)), to.path(_RANGES), _sha256(to.path(_RANGES)))

    def of_calibration(self, cache: Path) -> tuple[Path, ...]:
        """What is of the same calibration as a cache, where that is one of these itself."""
        return self.for_tensorrt if cache.resolve() in _resolved(self.for_tensorrt) else ()

    def remove(self, kept: Iterable[Path], missing: Iterable[Path] = ()) -> list[Path]:
        """All but what this run wrote or read, and graphs that it found to have no such form; gives what was there.

        Where the ranges are the same, so is the calibration, and graphs for other runtimes stay. To be called when all
        is written: a run that ends before has lost nothing.
        """
        spared = _resolved(kept)
        same = self.ranges_sha256 != "" and _sha256(self.ranges) == self.ranges_sha256
        found = dict.fromkeys((*missing, *self.judged, *(() if same else (*self.quantized, *self.for_tensorrt))))
        return [path for path in found if path.resolve() not in spared and _is_removed(path)]


def removed_in_words(removed: Iterable[Path]) -> list[str]:
    return [f"removed {path}, which was of an earlier calibration" for path in removed]


def _sha256(path: Path) -> str:
    return sha256_of_file(path) if path.is_file() else ""


def _resolved(paths: Iterable[Path]) -> frozenset[Path]:
    return frozenset(path.resolve() for path in paths)


def _is_removed(path: Path) -> bool:
    """Whether there was anything to remove."""
    was_there = path.exists() or weights_file(path).exists()
    with disk_errors_explained(path.parent):
        if path.suffix == ".onnx":
            remove_graph(path)
        else:
            path.unlink(missing_ok=True)
    return was_there


def _of_families(to: Destination) -> Iterator[Path]:
    for family in ("cpu", *FAMILY):
        for form in _FORMS:
            path = to.folder / f"{to.stem}.{family}.{form}"
            # Beside a placement of its own it is the graph that somebody named so with --out.
            if path.exists() and not path.with_name(f"{path.stem}.{PLACEMENT}").exists():
                yield path


def _of_sixteen_bits(to: Destination) -> Iterator[Path]:
    """Those that the placement beside them is of: many a person's own export has such a name."""
    placement = _document(to.path(PLACEMENT))
    if "families" in placement and FLOAT16 not in placement.get("missing_graphs", {FLOAT16: ""}):
        yield to.path(FLOAT16)
    if "float32_in_bf16" in placement:
        yield to.path(BFLOAT16)


def _measured(to: Destination) -> Iterator[Path]:
    """The one that a range table or a cache beside it is of."""
    graph = to.path(MEASURED_GRAPH)
    table = _range_table(to)
    named = {table["graph"]["sha256"]} if table is not None else set()
    named |= {origin.graph.sha256 for _, origin in _caches(to)}
    if named and graph.is_file() and sha256_of_file(graph) in named:
        yield graph


def _of_tensorrt(to: Destination) -> Iterator[Path]:
    from calibration.tensorrt_cache.origin import sidecar_of

    if _range_table(to) is not None:
        yield to.path(RANGE_TABLE)
    for cache, origin in _caches(to):
        if not cache.exists() or sha256_of_file(cache) == origin.sha256:
            yield cache
            yield sidecar_of(cache)


def _of_judging(to: Destination) -> Iterator[Path]:
    """`edgestill sensitivity` writes such files too, without a budget: those are of nothing that is written here."""
    if _document(to.path(SENSITIVITY)).get("budget") is not None:
        yield to.path(SENSITIVITY)
        yield to.path(EVALUATIONS)


def _caches(to: Destination) -> Iterator[tuple[Path, CacheOrigin]]:
    """Those with a record of ours: one without it is somebody else's."""
    from calibration.errors import CalibrationError
    from calibration.tensorrt_cache.origin import loaded_origin

    named = re.compile(re.escape(f"{to.stem}.") + _CACHE + r"\.json")
    for sidecar in sorted(each for each in to.folder.iterdir() if named.fullmatch(each.name)):
        cache = sidecar.with_suffix("")
        try:
            origin = loaded_origin(cache)
        except CalibrationError:
            continue
        if origin is not None:
            yield cache, origin


def _range_table(to: Destination) -> dict[str, Any] | None:
    from calibration.range_table import KIND

    document = _document(to.path(RANGE_TABLE))
    return document if document.get("kind") == KIND and "sha256" in document.get("graph", {}) else None


def _document(path: Path) -> dict[str, Any]:
    """Nothing where it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
