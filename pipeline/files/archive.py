"""Arrays on disk: .npz whose bytes depend on the arrays alone, and which is never unpickled."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import atomic


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Compressed, atomic."""
    buffer = io.BytesIO()
    # numpy stamps every member with the earliest time that a zip can hold, not with the time of writing.
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    atomic.write_bytes(path, buffer.getvalue())
