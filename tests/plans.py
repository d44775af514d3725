"""The first bytes of a plan, as TensorRT-RTX 1.7 writes them."""

from __future__ import annotations

import struct
from importlib.metadata import PackageNotFoundError, version


def _installed() -> tuple[int, ...]:
    try:
        return tuple(map(int, version("tensorrt_rtx").split(".")))
    except PackageNotFoundError:
        return (1, 7, 1, 116)


def plan_bytes(
    runtime_version: tuple[int, ...] | None = None, tag: bytes = b"vtrt", serialization: int = 0, body: bytes = b"plan"
) -> bytes:
    """A header with the right length, and a body that nobody reads."""
    size = 28 + len(body)
    return struct.pack("<4sIQQ4B", tag, serialization, 2, size, *(runtime_version or _installed())) + body
