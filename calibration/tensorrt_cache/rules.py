"""What the linter of calibration caches looks for in the file itself: its first line, its lines, its scales."""

from __future__ import annotations

import math
import re

import numpy as np

from calibration.scale import INT8_LEVELS, LARGEST_USUAL_AMAX, LEAST_USUAL_AMAX
from calibration.tensorrt_cache.cache import Entry, hexadecimal
from calibration.tensorrt_cache.subject import CacheRule, Found, Subject
from calibration.tensorrt_cache.version import CALIBRATORS

FORMAT = "the format that TensorRT writes: calibration/tensorrt_cache/cache.py"
REFUSED = "NVIDIA developer forum 349856: 'Calibration table does not match calibrator algorithm type'"
SILENT = "NVIDIA/TensorRT issue 3131; microsoft/onnxruntime issue 17235"
ZEROS = "NVIDIA/TensorRT issues 1102, 'we cannot generate scale for uniformly zero tensors', and 4446"
ARITHMETIC = "real = scale * integer, the integer in [-127, 127]"

INVENTED = re.compile(r"^\(Unnamed |^ONNXTRT_|^(?:Reshape|Transpose|Cast|Shuffle)__|_output(?:_\d+)?$")
"""Names of tensors that TensorRT's parser makes: in no ONNX file, though its names may end like the last."""

_LAST_WITH_CACHES = 10
_RECALIBRATES = "TensorRT calibrates again, or fails, where the first line is not its own and its calibrator's"


def _unreadable(subject: Subject) -> Found:
    for fault in subject.parsed.faults:
        yield f"line {fault.line}", f"{fault.what}; {fault.advice}"


def _other_version(subject: Subject) -> Found:
    version, wanted = subject.parsed.version, subject.wanted
    if version is not None and wanted is not None and version.number != wanted.number:
        yield "line 1", f"it is of TensorRT {version.release}, and {wanted.release} is to take it"


def _other_calibrator(subject: Subject) -> Found:
    version, wanted = subject.parsed.version, subject.wanted
    if version is None:
        return
    if version.calibrator not in CALIBRATORS:
        yield "line 1", f"calibrator {version.calibrator!r} is none of {', '.join(CALIBRATORS)}"
    elif wanted is not None and version.calibrator != wanted.calibrator:
        yield (
            "line 1",
            f"it is for {CALIBRATORS[version.calibrator]}, and {CALIBRATORS[wanted.calibrator]} is to take it",
        )


def _no_cache_any_more(subject: Subject) -> Found:
    version = subject.parsed.version
    if version is not None and version.major > _LAST_WITH_CACHES:
        yield "line 1", f"TensorRT {version.release} takes no cache"


def _no_scale(subject: Subject) -> Found:
    if any(_wrong_byte_order(subject)):
        return
    for entry in subject.parsed.entries:
        if not math.isfinite(entry.scale) or entry.scale < 0:
            yield _where(entry), f"its scale is {entry.scale:g} ({hexadecimal(entry.scale)})"


def _zero(subject: Subject) -> Found:
    """TensorRT writes zeros itself, of constants that it invents: those of the graph count, and without one those that
    are named as an ONNX file names its own."""
    for entry in subject.parsed.entries:
        of_graph = _is_of_graph(entry, subject)
        if entry.scale == 0 and (of_graph or (of_graph is None and not INVENTED.search(entry.tensor))):
            yield _where(entry), "its scale is 0"


def _perhaps_zero(subject: Subject) -> Found:
    for entry in subject.parsed.entries:
        if entry.scale == 0 and subject.graph is None and INVENTED.search(entry.tensor):
            yield _where(entry), "its scale is 0"


def _is_of_graph(entry: Entry, subject: Subject) -> bool | None:
    """None where no graph was given."""
    return None if subject.graph is None else entry.tensor in subject.graph.float_tensors


def _wrong_byte_order(subject: Subject) -> Found:
    entries = [entry for entry in subject.parsed.entries if entry.scale != 0]
    swapped = [entry for entry in entries if not _is_sane(entry.scale) and _is_sane(entry.scale.byteswap())]
    if swapped and 2 * len(swapped) > len(entries):
        first = swapped[0]
        yield (
            _where(first),
            f"{hexadecimal(first.scale)} is {first.scale:g} read as TensorRT does, and "
            f"{first.scale.byteswap():g} from the other end; so are {len(swapped)} of {len(entries)} scales",
        )


def _absurd(subject: Subject) -> Found:
    if any(_wrong_byte_order(subject)):
        return
    for entry in subject.parsed.entries:
        if math.isfinite(entry.scale) and entry.scale > 0 and not _is_sane(entry.scale):
            yield _where(entry), f"its scale {entry.scale:g} covers up to {float(entry.scale) * INT8_LEVELS:g}"


def _twice(subject: Subject) -> Found:
    seen: dict[str, Entry] = {}
    for entry in subject.parsed.entries:
        first = seen.setdefault(entry.tensor, entry)
        if first is not entry and hexadecimal(first.scale) == hexadecimal(entry.scale):  # else it is unreadable
            yield _where(entry), f"it stands in line {first.line} already, with the same scale"


def _line_ends(subject: Subject) -> Found:
    if count := subject.data.count(b"\r\n"):
        yield "", f"{count} lines end as in Windows"


def _is_sane(scale: np.float32) -> bool:
    return math.isfinite(scale) and LEAST_USUAL_AMAX <= float(scale) * INT8_LEVELS <= LARGEST_USUAL_AMAX


def _where(entry: Entry) -> str:
    return f"line {entry.line}, tensor {entry.tensor!r}"


FILE_RULES: tuple[CacheRule, ...] = (
    CacheRule(
        "unreadable-line",
        "error",
        "a line that cannot be read is a tensor without a scale, and it runs in float",
        "write the cache again",
        FORMAT,
        _unreadable,
    ),
    CacheRule(
        "other-version",
        "error",
        _RECALIBRATES,
        "write it for that version: edgestill quantize --tensorrt-version, from data or from --cache",
        REFUSED,
        _other_version,
    ),
    CacheRule(
        "other-calibrator",
        "error",
        _RECALIBRATES,
        "trtexec and DLA take EntropyCalibration2; for IInt8MinMaxCalibrator write MinMaxCalibration",
        REFUSED,
        _other_calibrator,
    ),
    CacheRule(
        "no-cache-any-more",
        "error",
        "TensorRT 11 removed implicit quantization",
        "make a Q/DQ graph of it: edgestill quantize MODEL.onnx --cache CACHE --family tensorrt",
        "the Python API of TensorRT 11.1, which has no IInt8Calibrator",
        _no_cache_any_more,
    ),
    CacheRule(
        "no-scale",
        "error",
        "no INT8 value can stand for anything then",
        "look for NaN, infinity or an empty batch in the calibration data, and calibrate again",
        ARITHMETIC,
        _no_scale,
    ),
    # An error: TensorRT itself warns `Tensor ... is uniformly zero` where it writes one, and 8.5 and later do not build
    # with such a cache (issue 4446). Of constants that its parser invents zeros are common, of tensors that the graph
    # has they are not: the data were wrong (issue 1102).
    CacheRule(
        "zero-scale",
        "error",
        "the tensor was zero on all calibration data: newer TensorRTs fail to build, older ones cut all of it off",
        "calibrate with data that reaches it; where it is zero for good, write 3f800000, the scale 1",
        ZEROS,
        _zero,
    ),
    CacheRule(
        "zero-scale-elsewhere",
        "warning",
        "harmless where TensorRT invented the tensor, and an error where the graph has it",
        "give the graph with --model",
        ZEROS,
        _perhaps_zero,
    ),
    CacheRule(
        "wrong-byte-order",
        "error",
        "TensorRT reads the digits as a big-endian float32",
        "write each scale with struct.pack('>f', amax / 127).hex()",
        FORMAT,
        _wrong_byte_order,
    ),
    CacheRule(
        "absurd-scale",
        "warning",
        f"beyond {LARGEST_USUAL_AMAX:g} nearly all values become 0, below {LEAST_USUAL_AMAX:g} nearly all are cut off",
        "look at what the tensor held on the calibration data: an outlier, a mask of -1e30, or a dead layer",
        ARITHMETIC,
        _absurd,
    ),
    CacheRule(
        "listed-twice",
        "warning",
        "two caches were joined, or the names of two tensors fell together",
        "take the second line out",
        FORMAT,
        _twice,
    ),
    CacheRule(
        "windows-line-ends",
        "warning",
        "TensorRT writes and reads lines that end in a line feed alone; what it makes of these is not documented",
        "copy the file in binary, or run dos2unix on it",
        FORMAT,
        _line_ends,
    ),
)
"""To add one: a function above that finds it, and an entry here."""
