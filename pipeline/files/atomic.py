"""Files that are either whole or absent, whatever was killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engines import files

# Below this a write that failed has failed for want of space, whatever the library that wrote calls it.
FULL_BELOW_BYTES = 1 << 14


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` in one step: a sibling is written, synced and renamed."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """UTF-8, one step."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: Any) -> None:
    """Two runs that hold the same values write the same bytes; NaN and infinity are refused."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a sibling to write; it becomes `path` when the block ends, and is gone when the block raises.

    Raises OSError for a full disk even where a library says it in its own way, as torch.save does.
    """
    with files.replacing(path) as temporary:
        try:
            yield temporary
        except Exception as error:
            # Asked while the half-written file still takes the space.
            if not isinstance(error, OSError) and shutil.disk_usage(path.parent).free < FULL_BELOW_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise


def sync_tree(folder: Path) -> None:
    """Every file and folder below, then the folder itself."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            files.sync(Path(parent) / name)
        files.sync(Path(parent))


def remove(entry: Path) -> None:
    """A file, a link or a whole folder; what is not there is fine."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
