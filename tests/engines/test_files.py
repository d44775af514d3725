"""What engines write is whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engines.files import replacing


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    to = tmp_path / "e.plan"
    to.write_bytes(b"old")
    with replacing(to) as partial:
        partial.write_bytes(b"new")
        assert to.read_bytes() == b"old"
        assert partial.parent == to.parent
        assert partial.suffix == ".plan"
    assert to.read_bytes() == b"new"
    assert names(tmp_path) == ["e.plan"]


def test_what_raises_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    to = tmp_path / "e.plan"
    to.write_bytes(b"old")

    def write_half() -> None:
        with replacing(to) as partial:
            partial.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert to.read_bytes() == b"old"
    assert names(tmp_path) == ["e.plan"]


def test_what_cannot_be_synced_does_not_get_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"), replacing(tmp_path / "e.plan") as partial:
        partial.write_bytes(b"new")
    assert names(tmp_path) == []


def test_two_writers_of_one_file_do_not_meet_and_the_last_one_wins(tmp_path: Path) -> None:
    to = tmp_path / "e.plan"
    with replacing(to) as first, replacing(to) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert to.read_bytes() == b"first"
    assert names(tmp_path) == ["e.plan"]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "e.plan") as partial:
        partial.write_bytes(b"")
    assert (tmp_path / "e.plan").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_is_not_there_is_an_oserror_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "absent" / "e.plan"):
        pytest.fail("the block ran")
