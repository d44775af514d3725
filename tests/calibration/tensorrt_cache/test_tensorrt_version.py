"""Versions of TensorRT in the first line of a calibration cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.tensorrt_cache.version import CacheVersion, version_from_first_line, wanted_version


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("8.6.1", "TRT-8601-EntropyCalibration2"),
        ("8.5.10", "TRT-8510-EntropyCalibration2"),
        ("10.0.1", "TRT-100001-EntropyCalibration2"),
        ("10.3.0", "TRT-100300-EntropyCalibration2"),
        ("10.14.1.48", "TRT-101401-EntropyCalibration2"),
        ("10.3.0-MinMaxCalibration", "TRT-100300-MinMaxCalibration"),
    ],
)
def test_a_version_is_written_as_tensorrt_numbers_itself(version: str, line: str) -> None:
    assert wanted_version(version).first_line == line
    assert version_from_first_line(line) == wanted_version(version)


@given(st.sampled_from([8, 10]), st.integers(0, 9), st.integers(0, 99))
def test_a_version_comes_back_from_its_line(major: int, minor: int, patch: int) -> None:
    version = CacheVersion(major, minor, patch, "MinMaxCalibration")
    assert version_from_first_line(version.first_line) == version
    assert wanted_version(f"{version.release}-MinMaxCalibration") == version


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("10.3", "TensorRT version '10.3' is not three numbers such as 10.3.0"),
        ("ten", "TensorRT version 'ten' is not three numbers"),
        ("11.0.0", "TensorRT 11 takes no calibration cache: build its engine from the Q/DQ graph"),
        ("9.3.0", "no cache is written for TensorRT 9.3.0: only those of 8.x and 10.x are known"),
        ("7.1.3", "no cache is written for TensorRT 7.1.3"),
        ("8.16.0", "no cache is written for TensorRT 8.16.0"),
        ("10.3.0-Entropy", "TensorRT calibrator 'Entropy' is unknown; choose from EntropyCalibration2, MinMaxCal"),
    ],
)
def test_a_version_that_takes_no_cache_is_refused(version: str, said: str) -> None:
    with pytest.raises(CalibrationError, match=f"^{said}"):
        wanted_version(version)


@pytest.mark.parametrize(
    ("line", "release"),
    [("TRT-7103-EntropyCalibration2", "7.1.3"), ("TRT-9300-Other", "9.3.0"), ("TRT-90300-Other", "9.3.0")],
)
def test_the_lines_of_other_versions_are_understood(line: str, release: str) -> None:
    found = version_from_first_line(line)
    assert found is not None
    assert found.release == release


@pytest.mark.parametrize("line", ["", "TRT", "TRT-8601", "trt-8601-EntropyCalibration2", "image: 3c010204", "TRT--x"])
def test_any_other_line_is_of_no_version(line: str) -> None:
    assert version_from_first_line(line) is None
