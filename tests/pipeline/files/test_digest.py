"""Content decides, not time; only the user's own large files are remembered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RecipeError
from pipeline.files.archive import write_npz
from pipeline.files.digest import REMEMBERED_FROM_BYTES, UserFileDigests, sha256_of_file, sha256_of_value


def test_the_order_of_keys_does_not_matter_and_nan_is_refused() -> None:
    assert sha256_of_value({"a": 1, "b": [2]}) == sha256_of_value({"b": [2], "a": 1})
    assert sha256_of_value({"a": 1}) != sha256_of_value({"a": 1.5})
    with pytest.raises(ValueError, match="Out of range float values"):
        sha256_of_value(float("inf"))


def test_a_large_file_is_hashed_once_and_again_when_it_changes(tmp_path: Path) -> None:
    data, cache = tmp_path / "data.npz", tmp_path / ".digests.json"
    data.write_bytes(bytes(REMEMBERED_FROM_BYTES))
    first = UserFileDigests(cache)
    before = first.of(data)
    first.save()
    # A forged digest under the right stamp shows that the second reader did not hash.
    known = json.loads(cache.read_text())
    known[str(data)][4] = "remembered"
    cache.write_text(json.dumps(known))
    assert UserFileDigests(cache).of(data) == "remembered"

    data.write_bytes(b"\1" + bytes(REMEMBERED_FROM_BYTES - 1))
    after = UserFileDigests(cache).of(data)
    assert after == sha256_of_file(data)
    assert after != before


def test_a_touched_file_with_the_same_bytes_keeps_its_digest(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes(bytes(REMEMBERED_FROM_BYTES))
    before = UserFileDigests().of(data)
    os.utime(data, (1, 1))
    assert UserFileDigests().of(data) == before


@pytest.mark.parametrize("content", ["{", "[]", '{"x": 1}', ""])
def test_a_cache_that_cannot_be_read_is_no_cache(tmp_path: Path, content: str) -> None:
    data, cache = tmp_path / "data.npz", tmp_path / ".digests.json"
    data.write_bytes(bytes(REMEMBERED_FROM_BYTES))
    cache.write_text(content.replace('"x"', json.dumps(str(data))))
    assert UserFileDigests(cache).of(data) == sha256_of_file(data)


def test_a_folder_is_its_names_and_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"1")
    before = UserFileDigests().of(tmp_path)
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "2.png")
    assert UserFileDigests().of(tmp_path) != before


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone.npz: cannot be read \(No such file or directory\)"):
        UserFileDigests().of_all({"gone.npz": tmp_path / "gone.npz"})


def test_two_archives_of_the_same_arrays_are_the_same_bytes(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.array([True])}
    for name in ("x.npz", "y.npz"):
        write_npz(tmp_path / name, arrays)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()
    with np.load(tmp_path / "x.npz", allow_pickle=False) as read:
        assert {name: read[name].tolist() for name in read.files} == {name: arrays[name].tolist() for name in arrays}


def test_a_linked_folder_is_part_of_the_folder_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"1")
    (folder / "cat").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    before = UserFileDigests().of(folder)
    (elsewhere / "a.png").write_bytes(b"2")
    assert UserFileDigests().of(folder) != before
