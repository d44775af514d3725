"""Versions of TensorRT as the first line of a calibration cache writes them: `TRT-100300-EntropyCalibration2`.

The number is `NV_TENSORRT_VERSION` of TensorRT's headers: major * 1000 + minor * 100 + patch up to 8.6 (`8601` is
8.6.1), major * 10000 + minor * 100 + patch from 10.0 on (`100300` is 10.3.0).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from calibration.errors import CalibrationError

CALIBRATORS = {
    "EntropyCalibration2": "IInt8EntropyCalibrator2",
    "MinMaxCalibration": "IInt8MinMaxCalibrator",
    "EntropyCalibration": "IInt8EntropyCalibrator",
}
"""The class that takes a cache, by the word in its first line; trtexec and DLA take the first alone."""

_FIRST_LINE = re.compile(r"TRT-(\d+)-(\w+)")
_WANTED = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:\.\d+)?(?:-(\w+))?")
_WIDE_FROM = 10  # majors whose number leaves two digits to the minor
_LAST_WITH_CACHES = 10
_NEWEST_OPSET = {8: 17}


@dataclass(frozen=True)
class CacheVersion:
    """Which TensorRT, through which of its calibrators, takes a cache as its own."""

    major: int
    minor: int
    patch: int
    calibrator: str = "EntropyCalibration2"
    """The word in the first line. It names the class that reads the file, not how the ranges were chosen."""

    @property
    def number(self) -> int:
        """`NV_TENSORRT_VERSION`."""
        unit = 10_000 if self.major >= _WIDE_FROM else 1_000
        return self.major * unit + self.minor * 100 + self.patch

    @property
    def newest_opset(self) -> int | None:
        """Of the graphs that it reads; None where every opset that quantization takes is read by some release."""
        return _NEWEST_OPSET.get(self.major)

    @property
    def release(self) -> str:
        """Such as `10.3.0`."""
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def first_line(self) -> str:
        return f"TRT-{self.number}-{self.calibrator}"


def wanted_version(text: str) -> CacheVersion:
    """`10.3.0`, or `10.3.0-MinMaxCalibration`; a fourth number, of the build, is left out.

    Raises CalibrationError where it is none, or no TensorRT of that version takes a cache.
    """
    match = _WANTED.fullmatch(text)
    if match is None:
        raise CalibrationError(
            f"TensorRT version {text!r} is not three numbers such as 10.3.0, or 10.3.0-MinMaxCalibration; "
            "`dpkg -l | grep nvinfer` on the device, or tensorrt.__version__, says them"
        )
    major, minor, patch = (int(number) for number in match.groups()[:3])
    calibrator = match[4] or "EntropyCalibration2"
    if calibrator not in CALIBRATORS:
        raise CalibrationError(f"TensorRT calibrator {calibrator!r} is unknown; choose from {', '.join(CALIBRATORS)}")
    if major > _LAST_WITH_CACHES:
        raise CalibrationError(f"TensorRT {major} takes no calibration cache: build its engine from the Q/DQ graph")
    if major not in (8, 10) or minor > 99 or patch > 99 or (major == 8 and minor > 9):
        raise CalibrationError(f"no cache is written for TensorRT {text}: only those of 8.x and 10.x are known")
    return CacheVersion(major, minor, patch, calibrator)


def version_from_first_line(line: str) -> CacheVersion | None:
    """None where the line is not of a calibration cache; the calibrator may be one that is not known."""
    match = _FIRST_LINE.fullmatch(line)
    if match is None:
        return None
    number = int(match[1])
    unit = 10_000 if number >= 10_000 else 1_000
    return CacheVersion(number // unit, number % unit // 100, number % 100, match[2])
