"""A recipe's folder: one folder a stage and key, a lock, and commits that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engines import files
from pipeline.errors import MachineLacks, RecipeError, ResourceExhausted, WorkspaceLocked
from pipeline.files import atomic

KEY_DIGITS = 12
CHECKPOINTS = "checkpoints"
CACHE = "teacher-outputs"
DIGESTS = ".digests.json"
"""What is remembered of the user's own large files."""


@dataclass(frozen=True)
class Workspace:
    """`path/03-export-<key>/` holds a result, `path/03-export` points at the newest."""

    path: Path

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held for a whole run; the kernel lets go of it however the process ends.

        Raises WorkspaceLocked with who holds it.
        """
        with disk_errors_explained(self.path):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
                raise RecipeError(f"{self.path}: cannot be a folder; choose another with --workspace") from error
            file = (self.path / ".lock").open("a+", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise WorkspaceLocked(f"{self.path}: locked by {_holder(file.read())}; wait for it to end") from error
            try:
                with disk_errors_explained(self.path):
                    file.truncate(0)
                    file.write(json.dumps(_self_description()))
                    file.flush()
                yield
            finally:
                file.truncate(0)

    def folder(self, index: int, stage: str, key: str) -> Path:
        """Where the result of a stage for a key stands, or will."""
        return self.path / f"{index:02d}-{stage}-{key[:KEY_DIGITS]}"

    def link(self, index: int, stage: str) -> Path:
        """The newest result of a stage."""
        return self.path / f"{index:02d}-{stage}"

    def partial(self, folder: Path) -> Path:
        """Where a result is written before it is committed."""
        return folder.with_name(folder.name + ".partial")

    def begin(self, folder: Path) -> Path:
        """`<folder>.partial`, empty but for the checkpoints that a killed run of the same key left."""
        partial = self.partial(folder)
        prefix = folder.name[:-KEY_DIGITS]
        for other in self.path.glob(f"{prefix}*.partial"):
            if other != partial or not other.is_dir():
                atomic.remove(other)
        (partial / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        for entry in partial.iterdir():
            if entry.name != CHECKPOINTS:
                atomic.remove(entry)
        return partial

    def commit(self, partial: Path, folder: Path, link: Path) -> None:
        """Synced, renamed, linked: a folder that exists is complete. The manifest is already inside."""
        atomic.sync_tree(partial)
        atomic.remove(partial / CHECKPOINTS)
        atomic.remove(folder)
        partial.rename(folder)
        files.sync(self.path)
        self.point(link, folder)

    def point(self, link: Path, folder: Path) -> None:
        """Makes the stage's link lead to `folder`."""
        if link.is_symlink() and Path(link.readlink()) == Path(folder.name):
            return
        temporary = link.with_name(f".{link.name}.link")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        if not link.is_symlink():
            # A workspace that was copied without its links has whole folders in their place.
            atomic.remove(link)
        temporary.replace(link)
        files.sync(self.path)


@contextlib.contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """A full or read-only disk becomes a message that says so; `path` is what is being written."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"{path}: no space left on the disk; free some and run again to resume") from error
        if error.errno == errno.EROFS:
            raise MachineLacks(f"{path}: is on a read-only disk; choose another folder") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise MachineLacks(f"{where}: {error.strerror}; change its permissions or choose another folder") from error
        raise


def _self_description() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['started']} ({holder['command']})"
    except (ValueError, KeyError, TypeError):
        return "another run"
