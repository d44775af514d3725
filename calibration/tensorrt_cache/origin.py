"""What a calibration cache came from: a JSON file beside it, for TensorRT's own format says nothing of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError
from calibration.range_table import GraphFile, RangeTable
from calibration.tensorrt_cache.version import CacheVersion

KIND = "tensorrt-cache-origin"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CacheOrigin:
    """The bytes of a cache, the graph whose tensors it names, and the calibration behind it."""

    sha256: str
    """Of the cache, as it was written."""
    first_line: str
    method: str
    images: int
    graph: GraphFile
    """Give TensorRT this file: it is the one that was measured."""
    source: GraphFile
    """The file that was calibrated, of which `graph` is the prepared form."""

    def to_bytes(self) -> bytes:
        """UTF-8 JSON, the same for the same origin."""
        document = {"schema_version": SCHEMA_VERSION, "kind": KIND, **asdict(self)}
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def origin_of(cache: bytes, version: CacheVersion, table: RangeTable, source: GraphFile) -> CacheOrigin:
    """Of a cache that was made from a range table."""
    digest = hashlib.sha256(cache).hexdigest()
    return CacheOrigin(digest, version.first_line, table.method, table.images, table.graph, source)


def sidecar_of(cache: Path) -> Path:
    """`calib.cache.json` of `calib.cache`."""
    return cache.with_name(f"{cache.name}.json")


def loaded_origin(cache: Path) -> CacheOrigin | None:
    """None where nothing lies beside the cache; raises CalibrationError where what lies there is something else."""
    sidecar = sidecar_of(cache)
    try:
        text = sidecar.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{sidecar}: cannot be read ({error})") from error
    try:
        return _origin_from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise CalibrationError(
            f"{sidecar}: does not say what {cache.name} came from ({error!r}); "
            "write the cache again, or move this file away"
        ) from error


def _origin_from_json(document: dict[str, Any]) -> CacheOrigin:
    if (document["kind"], document["schema_version"]) != (KIND, SCHEMA_VERSION):
        raise ValueError(f"it is {document['kind']} {document['schema_version']}, not {KIND} {SCHEMA_VERSION}")
    graph, source = (GraphFile(**document[name]) for name in ("graph", "source"))
    return CacheOrigin(
        str(document["sha256"]),
        str(document["first_line"]),
        str(document["method"]),
        int(document["images"]),
        graph,
        source,
    )
