"""What samples and labels are known by, whatever file they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.samples import Raw


def content_digest(raw: Raw) -> str:
    """SHA-256 of names, shapes, types and values: equal samples have equal digests whatever their file."""
    digest = hashlib.sha256()
    parts = raw.items() if isinstance(raw, Mapping) else [("", raw)]
    for name, array in parts:
        digest.update(f"{name}{array.shape} {array.dtype.str} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def recorded_label(label: Any) -> int | str:
    """What a record keeps of one sample's label."""
    array = np.asarray(label)
    return int(array) if array.ndim == 0 and array.dtype.kind in "iu" else content_digest(array)
