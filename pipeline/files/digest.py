"""SHA-256 of files, folders and values; user data through a cache that trusts unchanged size, times and inode."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.files import sha256_of_file
from pipeline.errors import RecipeError
from pipeline.files import atomic

__all__ = ["UserFileDigests", "sha256_of_file", "sha256_of_value"]

# Smaller files are read each time: cheaper than remembering them.
REMEMBERED_FROM_BYTES = 1 << 16


def sha256_of_value(value: Any) -> str:
    """Hex digest of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _files_below(folder: Path) -> list[Path]:
    """Every file that can be reached, through links to folders too, each folder once."""
    files: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        files += [path for name in names if (path := Path(parent) / name).is_file()]
    return sorted(files)


class UserFileDigests:
    """Digests of the user's own files. Artifacts never come here: they are hashed at every read."""

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if cache is not None:
            # A cache that cannot be read is no cache.
            with contextlib.suppress(OSError, ValueError):
                known = json.loads(cache.read_text(encoding="utf-8"))
                self._known = known if isinstance(known, dict) else {}

    def of(self, path: Path) -> str:
        """Digest of a file's bytes, or of the names and bytes of a folder's files."""
        if path.is_dir():
            return sha256_of_value({str(each.relative_to(path)): self._of_file(each) for each in _files_below(path)})
        return self._of_file(path)

    def of_all(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Digest of each, by the name it has in the recipe; raises RecipeError for one that cannot be read."""
        try:
            return {name: self.of(path) for name, path in files.items()}
        except OSError as error:
            raise RecipeError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def save(self) -> None:
        """Remembers what was hashed; a workspace that cannot be written only forgets."""
        if self._cache is not None and self._changed:
            with contextlib.suppress(OSError):
                atomic.write_json(self._cache, self._known)

    def _of_file(self, path: Path) -> str:
        state = path.stat()
        if state.st_size < REMEMBERED_FROM_BYTES:
            return sha256_of_file(path)
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        known = self._known.get(str(path.absolute()))
        if isinstance(known, list) and len(known) == 5 and known[:4] == stamp:
            return str(known[4])
        digest = sha256_of_file(path)
        self._known[str(path.absolute())] = [*stamp, digest]
        self._changed = True
        return digest
