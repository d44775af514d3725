"""Arrays on disk: .npz whose bytes depend on the arrays alone, and which is never unpickled."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import atomic

# numpy.savez stamps the time of writing; this is the earliest time that a zip can hold.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Compressed, atomic."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH), member.getvalue(), zipfile.ZIP_DEFLATED)
    atomic.write_bytes(path, buffer.getvalue())
