"""The first bytes of a plan: which runtime wrote it, in which version. Reads, loads nothing."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.errors import EngineDamaged

Version = tuple[int, int, int, int]

_HEADER = struct.Struct("<4sIQQ4B")
"""Tag, version of the serialization, one field that is not documented, length of the file, version of the runtime.

Tag, serialization and version as NVIDIA's trtexec (--getPlanVersionOnly) reads them; the length was seen to be that of
the file in plans of TensorRT-RTX 1.7, which begin with a tag of their own.
"""
_TAGS: Mapping[bytes, str] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_KNOWN_SERIALIZATION = 0


@dataclass(frozen=True)
class PlanHeader:
    """Who wrote a plan."""

    runtime: str
    """A key of `engines.ENGINES`."""
    version: Version
    """Major, minor, patch and build."""


def plan_header(data: bytes, where: Path) -> PlanHeader:
    """From a plan's bytes, whole or the first of them with the rest missing.

    Raises EngineDamaged where they are no plan, are cut off, or of a serialization that nobody has described.
    """
    if len(data) < _HEADER.size:
        raise EngineDamaged(f"{where}: {len(data)} bytes are no plan; build the engine again")
    tag, serialization, _, length, *version = _HEADER.unpack_from(data)
    runtime = _TAGS.get(tag)
    if runtime is None:
        raise EngineDamaged(f"{where}: begins with {tag!r}, as no plan of TensorRT does; name the engine's file")
    if serialization != _KNOWN_SERIALIZATION:
        raise EngineDamaged(f"{where}: its header is of a serialization ({serialization}) that is not known here")
    if runtime == "tensorrt-rtx" and length != len(data):
        raise EngineDamaged(
            f"{where}: has {len(data)} bytes, its header says {length}; it was cut off or added to: copy it again"
        )
    major, minor, patch, build = version
    return PlanHeader(runtime, (major, minor, patch, build))


def version_text(version: Version) -> str:
    """Such as `1.7.1.116`."""
    return ".".join(map(str, version))
