"""Files that are whole or absent whatever was killed, and read by their digest. Needs the standard library alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from engines.errors import EngineDamaged


@contextlib.contextmanager
def replacing(to: Path) -> Iterator[Path]:
    """Yields an empty sibling to write; it becomes `to` when the block ends, and is gone when the block raises.

    What the block wrote is on disk before it gets its name. Raises OSError where the folder cannot be written to.
    """
    # The suffix stays: some libraries add their own to a file that lacks it.
    partial = to.with_name(f".{to.name}.{secrets.token_hex(4)}{to.suffix}")
    partial.touch(exist_ok=False)
    try:
        yield partial
        sync(partial)
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)
    sync(to.parent)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verified_bytes(engine: Path, sha256: str) -> bytes:
    """The engine's bytes, read once, of the recorded digest; raises EngineDamaged otherwise."""
    try:
        data = engine.read_bytes()
    except OSError as error:
        raise EngineDamaged(f"{engine}: cannot be read ({error.strerror}); build it again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise EngineDamaged(
            f"{engine}: SHA-256 is {found[:12]}…, recorded was {sha256[:12]}…; it was not loaded. Build it again"
        )
    return data
