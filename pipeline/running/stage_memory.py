"""Peak resident memory of a stretch of this process."""

from __future__ import annotations

import contextlib
from pathlib import Path

from engines.peak_memory import high_water_mark_bytes


class StageMemory:
    """A context manager; `peak_bytes` is known after it ends, None where the kernel does not tell."""

    peak_bytes: int | None = None

    def __enter__(self) -> StageMemory:
        # "5" resets the kernel's high-water mark, for this process alone.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.peak_bytes = high_water_mark_bytes()
