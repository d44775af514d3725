"""Calibration caches: written as TensorRT writes them, read whoever wrote them, refused with the line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.range_table import GraphFile, RangeTable, TensorAmax
from calibration.scale import scale_from_amax
from calibration.tensorrt_cache.cache import CalibrationCache, parsed_cache
from calibration.tensorrt_cache.origin import CacheOrigin, loaded_origin, origin_of, sidecar_of
from calibration.tensorrt_cache.version import wanted_version

GOOD = b"TRT-100300-EntropyCalibration2\nimage: 3c010204\n/layer1/0/Conv:0: 3d0b7086\nwith a space: 0\n"
VERSION = wanted_version("10.3.0")

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
    lambda name: name == name.strip() and "\n" not in name and "\r" not in name
)
positive_scales = st.floats(min_value=2**-126, max_value=float(np.finfo(np.float32).max), width=32)


def loaded(folder: Path, data: bytes) -> CalibrationCache:
    file = folder / "calib.cache"
    file.write_bytes(data)
    return CalibrationCache.load(file)


def test_a_cache_is_read_as_tensorrt_writes_it(tmp_path: Path) -> None:
    cache = loaded(tmp_path, GOOD)
    assert cache.version == VERSION
    assert list(cache.scales) == ["image", "/layer1/0/Conv:0", "with a space"]
    assert cache.scales["image"] == np.float32(1 / 127)
    assert cache.scales["with a space"] == 0


def test_line_ends_of_windows_and_empty_lines_do_not_matter(tmp_path: Path) -> None:
    assert loaded(tmp_path, GOOD.replace(b"\n", b"\r\n") + b"\n\n").scales == loaded(tmp_path, GOOD).scales


@given(
    st.dictionaries(names, positive_scales, min_size=1, max_size=4),
    st.sampled_from(["8.6.1", "10.3.0-MinMaxCalibration"]),
)
def test_any_names_and_scales_come_back_bit_for_bit(scales: dict[str, float], version: str) -> None:
    given_scales = {name: np.float32(scale) for name, scale in scales.items()}
    written = CalibrationCache(wanted_version(version), given_scales).to_bytes()
    found = parsed_cache(written)
    assert found.faults == ()
    assert found.version == wanted_version(version)
    assert {name: scale.tobytes() for name, scale in found.scales.items()} == {
        name: scale.tobytes() for name, scale in given_scales.items()
    }
    assert CalibrationCache(wanted_version(version), found.scales).to_bytes() == written


@given(st.dictionaries(names, positive_scales, min_size=1, max_size=4))
def test_ranges_from_a_cache_make_its_scales_again(scales: dict[str, float]) -> None:
    cache = CalibrationCache(VERSION, {name: np.float32(scale) for name, scale in scales.items()})
    ranges = cache.ranges(scales, images=0)
    for name, scale in scales.items():
        assert scale_from_amax(ranges.of(name).amax).tobytes() == np.float32(scale).tobytes()


@given(st.binary())
def test_bytes_of_any_kind_are_read_or_faulted_but_never_crash(data: bytes) -> None:
    for content in (data, GOOD + data, GOOD[: len(data) % len(GOOD)]):
        found = parsed_cache(content)
        assert found.faults or (found.version is not None and found.entries)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "calib.cache:1: the first line is '', not such as TRT-100300-EntropyCalibration2; this is no"),
        (b"\x89PNG\r\n\x1a\n", r"calib.cache:1: the first line is '\\x89PNG', not such as"),
        (b"\xef\xbb\xbf" + GOOD, "calib.cache:1: the first line is .*its first line is lost: write it again"),
        (b"image: 3c010204\n", "calib.cache:1: the first line is 'image: 3c010204', not such as"),
        (GOOD[:31], "calib.cache:2: it lists no tensor; it was cut off, or the calibration failed"),
        (GOOD[:42], "calib.cache:2: the file ends within 'image: 3c01'; it was cut off: copy or write it again"),
        (GOOD[:34], "calib.cache:2: the file ends within 'ima'; it was cut off"),
        (
            GOOD + b"x: inf\n",
            "calib.cache:5: the scale of 'x' is 'inf', not the hexadecimal digits of a float32; write",
        ),
        (GOOD + b"x: 0x3c010204\n", "calib.cache:5: the scale of 'x' is '0x3c010204', not the hexadecimal digits"),
        (GOOD + b"x: 3c01020400\n", "calib.cache:5: the scale of 'x' is '3c01020400', not the hexadecimal digits"),
        (GOOD + b"x: 3g010204\n", "calib.cache:5: the scale of 'x' is '3g010204', not the hexadecimal digits"),
        (GOOD + b"x:3c010204\n", "calib.cache:5: 'x:3c010204' is not `tensor: scale`"),
        (GOOD + b": 3c010204\n", "calib.cache:5: ': 3c010204' is not `tensor: scale`"),
        (GOOD + b"\xff\xfe: 3c010204\n", r"calib.cache:5: '\\xff\\xfe: 3c010204' is not UTF-8"),
        (GOOD + b"image: 3c010205\n", "calib.cache:5: tensor 'image' has scale 0.00787402 here and .* in line 2"),
        (GOOD + GOOD, "calib.cache:5: 'TRT-100300-EntropyCalibration2' is not `tensor: scale`"),
    ],
)
def test_what_is_no_whole_cache_is_refused_with_its_line(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(CalibrationError, match=said.replace("0.00787402", r"[\d.]+")):
        loaded(tmp_path, data)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no.cache: cannot be read \(No such file or directory\)"):
        CalibrationCache.load(tmp_path / "no.cache")


@pytest.mark.parametrize("name", ["a\nb", "a\rb", " a", "a ", ""])
def test_a_name_that_a_line_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(CalibrationError, match="cannot stand in a calibration cache, which has a line per tensor"):
        CalibrationCache(VERSION, {name: np.float32(1)}).to_bytes()


@pytest.mark.parametrize(
    ("digits", "shown"), [("7f800000", "inf"), ("7fc00000", "nan"), ("bc010204", "-0.00787402"), ("0", "0")]
)
def test_a_scale_that_is_none_is_refused_where_it_is_needed_and_only_there(
    tmp_path: Path, digits: str, shown: str
) -> None:
    cache = loaded(tmp_path, GOOD + f"bad: {digits}\n".encode())
    assert set(cache.ranges(["image"], 8).tensors) == {"image", "/layer1/0/Conv:0"}
    with pytest.raises(
        CalibrationError, match=f"lacks the scale of 1 tensor .*: 'bad' has {shown}, which is no scale; look for NaN"
    ):
        cache.ranges(["image", "bad"], 8)


def test_a_renamed_tensor_is_answered_with_the_closest_name(tmp_path: Path) -> None:
    cache = loaded(tmp_path, GOOD)
    with pytest.raises(CalibrationError, match=r"'layer1.0.conv' \(there is '/layer1/0/Conv:0'\); 'zip'; it was made"):
        cache.ranges(["layer1.0.conv", "zip"], 8)


def test_ranges_say_whose_they_are(tmp_path: Path) -> None:
    ranges = loaded(tmp_path, GOOD).ranges([], images=512)
    assert (ranges.method, ranges.images) == ("TRT-100300-EntropyCalibration2", 512)
    assert math.isclose(ranges.of("image").amax, 1, rel_tol=1e-7)
    assert ranges.of("image").low == -ranges.of("image").high


def test_the_origin_of_a_cache_lies_beside_it(tmp_path: Path) -> None:
    graph, source = GraphFile("m.fp32.onnx", "ab"), GraphFile("m.onnx", "cd")
    table = RangeTable(graph, "entropy", 512, {"image": TensorAmax(1.0)})
    file = tmp_path / "calib.cache"
    file.write_bytes(CalibrationCache.from_table(table, VERSION).to_bytes())
    assert loaded_origin(file) is None
    origin: CacheOrigin = origin_of(file.read_bytes(), VERSION, table, source)
    sidecar_of(file).write_bytes(origin.to_bytes())
    assert sidecar_of(file).name == "calib.cache.json"
    assert loaded_origin(file) == origin
    assert (origin.method, origin.images, origin.first_line) == ("entropy", 512, VERSION.first_line)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "other", "schema_version": 1}', "\xff"])
def test_something_else_beside_a_cache_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "calib.cache"
    sidecar_of(file).write_bytes(text.encode("latin-1"))
    with pytest.raises(CalibrationError, match=r"calib\.cache\.json: (does not say|cannot be read)"):
        loaded_origin(file)
