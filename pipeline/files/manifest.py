"""`manifest.json`: what a folder holds, digest by digest, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import IntegrityError
from pipeline.files import atomic
from pipeline.files.digest import sha256_of_file, sha256_of_value

MANIFEST = "manifest.json"
LOG = "log.txt"
SCHEMA_VERSION = 1
MEND = "`edgestill run` rebuilds the stage"


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
    """Digest and size of each file of a folder; its log and its manifest are not outputs."""
    files = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*") if not each.is_dir()}
    return {
        name: {"sha256": sha256_of_file(files[name]), "bytes": files[name].stat().st_size}
        for name in sorted(files)
        if name not in (MANIFEST, LOG)
    }


def read_manifest(folder: Path) -> Manifest:
    """Raises IntegrityError for a manifest that is missing, cut off or of another schema."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["schema_version"]
        manifest = Manifest(**document)
        sha256s = [output["sha256"] for output in manifest.outputs.values()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise IntegrityError(f"{path}: cannot be read ({reason}); {MEND}") from error
    if found != SCHEMA_VERSION or not all(isinstance(sha256, str) for sha256 in sha256s):
        raise IntegrityError(f"{path}: is not of schema_version {SCHEMA_VERSION} (found {found}); {MEND}")
    return manifest


def verified_manifest(folder: Path, key: str, besides: str | None = None) -> Manifest:
    """The manifest of a folder whose files are exactly those it lists, made for `key`; `besides` is a folder of others.

    Raises IntegrityError naming the first file that is not as it was recorded.
    """
    manifest = read_manifest(folder)
    if manifest.key != key:
        raise IntegrityError(f"{folder / MANIFEST}: is of another result (key {str(manifest.key)[:12]}…); {MEND}")
    try:
        found = outputs_of(folder)
    except OSError as error:
        raise IntegrityError(f"{error.filename or folder}: cannot be read ({error.strerror}); {MEND}") from error
    found = {path: output for path, output in found.items() if besides is None or not path.startswith(f"{besides}/")}
    for path in sorted({*found, *manifest.outputs}):
        expected = manifest.outputs.get(path)
        if expected is None:
            raise IntegrityError(f"{folder / path}: is not in the manifest; {MEND}")
        if path not in found:
            raise IntegrityError(f"{folder / path}: is missing; {MEND}")
        if found[path]["sha256"] != expected["sha256"]:
            raise IntegrityError(
                f"{folder / path}: SHA-256 is {found[path]['sha256'][:12]}…, "
                f"recorded was {expected['sha256'][:12]}…; {MEND}"
            )
    return manifest
