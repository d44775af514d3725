"""A file is whole or absent."""

from __future__ import annotations

import errno
import gc
import json
import shutil
from pathlib import Path

import pytest

from pipeline.files import atomic


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a.json", "old")
    atomic.write_text(tmp_path / "a.json", "new …")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "new …"
    assert names(tmp_path) == ["a.json"]


def test_what_raises_leaves_the_old_file(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a.json", "old")

    def write_half() -> None:
        with atomic.replacing(tmp_path / "a.json") as temporary:
            temporary.write_text("ne")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert (tmp_path / "a.json").read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic.write_text(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_the_same_bytes_and_refuses_nan(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"b": 1, "a": "ü"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"b": 1, "a": "ü"}
    assert (tmp_path / "a.json").read_bytes().endswith(b"\n")
    with pytest.raises(ValueError, match="Out of range float values"):
        atomic.write_json(tmp_path / "b.json", {"accuracy": float("nan")})
    assert names(tmp_path) == ["a.json"]


def test_a_library_that_says_full_disk_in_its_own_words_is_understood(small_disk: Path) -> None:
    import torch

    def save() -> tuple[int | None, type[BaseException | None]]:
        try:
            with atomic.replacing(small_disk / "x.pt") as temporary:
                torch.save({"x": torch.zeros(1_000_000)}, temporary)
        except OSError as error:
            return error.errno, type(error.__cause__)
        return None, type(None)

    assert save() == (errno.ENOSPC, RuntimeError)
    assert names(small_disk) == []
    gc.collect()  # torch's writer keeps its file open for as long as the error lives
    assert shutil.disk_usage(small_disk).free > 900_000


def test_removing_takes_files_links_and_folders(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to("kept")
    for name in ("folder", "link", "absent"):
        atomic.remove(tmp_path / name)
    assert names(tmp_path) == ["kept"]
    assert names(tmp_path / "kept") == ["file"]
