"""A training's state between two epochs: one file that carries its own digest."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from pipeline.files import atomic

_DIGEST_BYTES = hashlib.sha256().digest_size


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """The digest first, then what torch saves; in one file, so that a kill cannot part them."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    atomic.write_bytes(path, hashlib.sha256(payload).digest() + payload)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state, read without running code; None where there is no checkpoint or it is damaged."""
    import torch

    if not path.exists():
        return None
    data = path.read_bytes()
    digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True)
    return state
