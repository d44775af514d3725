"""What of torch's state decides the bits of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.context import Context


def set_up_torch(context: Context, offset: int = 0) -> None:
    """Threads and random state: with one thread the same seed gives the same bits. The offset tells networks apart."""
    import torch

    torch.set_num_threads(context.threads)
    torch.manual_seed(context.seed + offset)
