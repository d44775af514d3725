"""Files that are either whole or absent, whatever was killed. Needs the standard library alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


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
