"""The calibration cache of TensorRT 8 to 10, as interchange: written for a version, read into ranges.

    TRT-100300-EntropyCalibration2
    image: 3c010a14

A line per tensor: its name and the float32 scale, amax / 127, in big-endian hexadecimal. TensorRT writes no leading
zeros, so a scale of zero is `0`. Names may hold colons and spaces: the last `: ` ends them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.counting import counted
from calibration.errors import CalibrationError
from calibration.methods.closest import renamed
from calibration.methods.method import Range
from calibration.range_table import RangeTable
from calibration.ranges import Ranges
from calibration.scale import amax_from_scale, scale_from_amax
from calibration.tensorrt_cache.version import CacheVersion, version_from_first_line

_HEX_DIGITS = 8
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{1,8}")
_NAMED = 5  # tensors in an error
_RENAMED = "it was made for another graph, or the tensors were renamed"
_NO_SCALE = "look for NaN, infinity or zeros alone in the calibration data, and calibrate again"
_SHOWN = 60  # characters of a line in an error


@dataclass(frozen=True)
class Entry:
    """A line of a cache."""

    line: int
    tensor: str
    scale: np.float32
    """As it stands: it may be zero, infinite, negative or NaN."""


@dataclass(frozen=True)
class Fault:
    """What is no cache about a file."""

    line: int
    what: str
    advice: str


@dataclass(frozen=True)
class ParsedCache:
    """All that can be read of a file, and what cannot."""

    version: CacheVersion | None
    entries: tuple[Entry, ...]
    faults: tuple[Fault, ...]

    @property
    def scales(self) -> dict[str, np.float32]:
        """By tensor; of one that is listed twice, the last."""
        return {entry.tensor: entry.scale for entry in self.entries}


@dataclass(frozen=True)
class CalibrationCache:
    """A whole cache: who takes it, and the scale of each tensor."""

    version: CacheVersion
    scales: Mapping[str, np.float32]

    @classmethod
    def from_table(cls, table: RangeTable, version: CacheVersion) -> CalibrationCache:
        """The scales of the same Q/DQ pairs, bit for bit."""
        return cls(version, {tensor: scale_from_amax(each.amax) for tensor, each in table.tensors.items()})

    def to_bytes(self) -> bytes:
        """Raises CalibrationError for a name that would not come back."""
        lines = [self.version.first_line]
        for tensor, scale in self.scales.items():
            if tensor != tensor.strip() or not tensor or "\n" in tensor or "\r" in tensor:
                raise CalibrationError(
                    f"tensor {tensor!r} cannot stand in a calibration cache, which has a line per tensor; rename it"
                )
            lines.append(f"{tensor}: {hexadecimal(scale)}")
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> CalibrationCache:
        """Raises CalibrationError, with the line, where the file is anything but a whole cache."""
        try:
            parsed = parsed_cache(path.read_bytes())
        except OSError as error:
            raise CalibrationError(f"{path}: cannot be read ({error.strerror})") from error
        if parsed.version is None or parsed.faults:
            first = parsed.faults[0]
            raise CalibrationError(f"{path}:{first.line}: {first.what}; {first.advice}")
        return cls(parsed.version, parsed.scales)

    def ranges(self, needed: Iterable[str], images: int, named: Collection[str] = ()) -> Ranges:
        """The range of each tensor, whose scale `scale_from_amax` makes again bit for bit.

        `images` is how many are known to be behind it, `named` what the graph itself has: none of those is another one
        renamed. Raises CalibrationError naming what is needed and missing.
        """
        usable = {tensor: scale for tensor, scale in self.scales.items() if is_usable(scale)}
        missing = [tensor for tensor in needed if tensor not in usable]
        if missing:
            raise CalibrationError(_missing(missing, self.scales, [name for name in usable if name not in named]))
        amax = {tensor: amax_from_scale(scale) for tensor, scale in usable.items()}
        return Ranges(self.version.first_line, images, {name: Range(-value, value) for name, value in amax.items()})


def is_usable(scale: np.float32) -> bool:
    """Whether INT8 can have this scale."""
    return math.isfinite(scale) and float(scale) > 0


def hexadecimal(scale: np.float32) -> str:
    """Eight digits, the sign first."""
    return np.array(scale, ">f4").tobytes().hex()


def parsed_cache(data: bytes) -> ParsedCache:
    """Reads whatever the bytes are; never raises."""
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    version = version_from_first_line(lines[0].decode(errors="replace"))
    entries: list[Entry] = []
    faults = [] if version is not None else [_no_first_line(lines[0])]
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        found = _entry(number, line, is_cut_off=number == len(lines))
        if isinstance(found, Entry):
            entries.append(found)
        else:
            faults.append(found)
    if not entries and not faults:
        faults.append(
            Fault(len(lines), "it lists no tensor", "it was cut off, or the calibration failed: write it again")
        )
    return ParsedCache(version, tuple(entries), (*faults, *_contradictions(entries)))


def _entry(number: int, line: bytes, *, is_cut_off: bool) -> Entry | Fault:
    """`is_cut_off`: the file ends within the line, which is fine where all digits are there."""
    try:
        tensor, separator, digits = line.decode().rpartition(": ")
    except UnicodeDecodeError:
        return Fault(
            number, f"{_shown(line)} is not UTF-8", "write the cache again; TensorRT writes names as ONNX has them"
        )
    if is_cut_off and (not separator or len(digits.strip()) < _HEX_DIGITS):
        return Fault(number, f"the file ends within {_shown(line)}", "it was cut off: copy or write it again")
    if not separator or not tensor.strip():
        return Fault(number, f"{_shown(line)} is not `tensor: scale`", "write the cache again, or take the line out")
    if not _HEXADECIMAL.fullmatch(digits.strip()):
        return Fault(
            number,
            f"the scale of {tensor!r} is {digits.strip()!r}, not the hexadecimal digits of a float32",
            "write amax / 127 in big-endian hexadecimal: 1 / 127 is 3c010204",
        )
    return Entry(number, tensor, _scale(digits.strip()))


def _scale(digits: str) -> np.float32:
    return np.float32(np.frombuffer(bytes.fromhex(digits.rjust(_HEX_DIGITS, "0")), ">f4")[0])


def _no_first_line(line: bytes) -> Fault:
    return Fault(
        1,
        f"the first line is {_shown(line)}, not such as TRT-100300-EntropyCalibration2",
        "this is no calibration cache of TensorRT, or its first line is lost: write it again",
    )


def _contradictions(entries: Iterable[Entry]) -> Iterator[Fault]:
    first: dict[str, Entry] = {}
    for entry in entries:
        before = first.setdefault(entry.tensor, entry)
        if hexadecimal(before.scale) != hexadecimal(entry.scale):
            yield Fault(
                entry.line,
                f"tensor {entry.tensor!r} has scale {entry.scale:g} here and {before.scale:g} in line {before.line}",
                "TensorRT takes one of them without a word: keep the right one",
            )


def _shown(line: bytes) -> str:
    text = line.decode(errors="backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"'{text}'" if len(text) <= _SHOWN else f"'{text[:_SHOWN]}…'"


def _missing(missing: list[str], listed: Mapping[str, np.float32], others: Collection[str]) -> str:
    absent = [tensor for tensor in missing if tensor not in listed]
    said = "; ".join(
        f"{tensor!r} has {listed[tensor]:g}, which is no scale" if tensor in listed else _absent(tensor, absent, others)
        for tensor in missing[:_NAMED]
    )
    more = f"; and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return (
        f"the cache lacks the scale of {counted(len(missing), 'tensor')} that the graph needs: {said}{more}; "
        f"{_RENAMED if absent else _NO_SCALE}: `edgestill lint CACHE --model MODEL.onnx`"
    )


def _absent(tensor: str, absent: Collection[str], others: Collection[str]) -> str:
    likely = renamed(tensor, absent, others)
    return repr(tensor) if likely is None else f"{tensor!r} (there is {likely!r})"
