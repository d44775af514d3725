"""`manifest.json`: what a folder holds, digest by digest, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.digest import sha256_of_file, sha256_of_value
from pipeline.errors import IntegrityError

MANIFEST = "manifest.json"
LOG = "log.txt"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """One stage's result, as it was committed."""

    stage: str
    key: str
    key_parts: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]]
    """path -> {sha256, bytes}."""
    seconds: float
    peak_memory_bytes: int | None
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """Of every file's path and content: what later stages' keys build on."""
        return sha256_of_value({path: output["sha256"] for path, output in self.outputs.items()})

    def write(self, folder: Path) -> None:
        """Beside the files it lists."""
        atomic.write_json(folder / MANIFEST, asdict(self))


def outputs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Digest and size of each file of a folder; the log and the manifest itself are not outputs."""
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each.name not in (MANIFEST, LOG))
    return {
        each.relative_to(folder).as_posix(): {"sha256": sha256_of_file(each), "bytes": each.stat().st_size}
        for each in files
    }


def read_manifest(folder: Path) -> Manifest:
    """Raises IntegrityError for a manifest that is missing, cut off or of another schema."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != SCHEMA_VERSION:
            raise IntegrityError(f"{path}: schema_version {document['schema_version']}, this release reads 1")
        return Manifest(**document)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); `edgestill run` rebuilds the stage") from error


def verified_manifest(folder: Path) -> Manifest:
    """The manifest of a folder whose files are exactly those it lists; raises IntegrityError naming the first."""
    manifest = read_manifest(folder)
    found = outputs_of(folder)
    for path in sorted({*found, *manifest.outputs}):
        expected = manifest.outputs.get(path)
        if expected is None:
            raise IntegrityError(f"{folder / path}: is not in the manifest; `edgestill run` rebuilds the stage")
        if path not in found:
            raise IntegrityError(f"{folder / path}: is missing; `edgestill run` rebuilds the stage")
        if found[path]["sha256"] != expected["sha256"]:
            raise IntegrityError(
                f"{folder / path}: SHA-256 is {found[path]['sha256'][:12]}…, "
                f"recorded was {expected['sha256'][:12]}…; `edgestill run` rebuilds the stage"
            )
    return manifest
