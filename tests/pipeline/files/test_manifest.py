"""What a manifest counts, and what later stages build on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import IntegrityError
from pipeline.files.manifest import Manifest, outputs_of, read_manifest, verified_manifest

KEY = "0123456789abcdef"


def committed(folder: Path, **files: str) -> Manifest:
    """A folder of text files with its manifest."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    manifest = Manifest("data", KEY, {"seed": 0}, outputs_of(folder), 1.5, None, {"numpy": "2"}, {})
    manifest.write(folder)
    return manifest


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written = committed(tmp_path, a_txt="a", cpu__b_txt="b")
    assert read_manifest(tmp_path) == written
    assert verified_manifest(tmp_path, KEY) == written
    assert list(written.outputs) == ["a.txt", "cpu/b.txt"]
    assert written.outputs["a.txt"]["bytes"] == 1


def test_the_log_is_no_output_but_a_file_of_its_name_below_is(tmp_path: Path) -> None:
    before = committed(tmp_path, a_txt="a")
    (tmp_path / "log.txt").write_text("took 3 s")
    assert verified_manifest(tmp_path, KEY) == before
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "log.txt").write_text("hidden")
    with pytest.raises(IntegrityError, match=r"cpu/log.txt: is not in the manifest"):
        verified_manifest(tmp_path, KEY)


def test_the_digest_is_of_names_and_bytes_and_not_of_times(tmp_path: Path) -> None:
    first, second, renamed = (tmp_path / name for name in "123")
    one = committed(first, a_txt="a")
    assert committed(second, a_txt="a").digest == one.digest
    assert committed(renamed, b_txt="a").digest != one.digest


@pytest.mark.parametrize("content", ["", "null", "[]", "3", '{"schema_version": 1}', "\x00"])
def test_a_manifest_that_is_none_is_said_to_be_none(tmp_path: Path, content: str) -> None:
    committed(tmp_path, a_txt="a")
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"manifest.json: cannot be read .*`edgestill run` rebuilds the stage"):
        verified_manifest(tmp_path, KEY)
