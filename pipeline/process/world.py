"""The processes that train together under `torchrun`, or the one that trains alone.

Launching is torchrun's, communication is torch.distributed's; here stands who is who and what they exchange.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class World:
    """Which process of how many this is; rank 0 alone writes."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Which of this machine's processes: the number of its GPU."""

    @property
    def leads(self) -> bool:
        """Whether this process writes, speaks and decides."""
        return self.rank == 0

    def device(self) -> torch.device:
        """A GPU where there is one for this process, else the CPU."""
        import torch

        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device("cpu")

    def share(self, count: int, what: str) -> slice:
        """This process's part of `count` things; raises RecipeError where they do not divide evenly."""
        if count % self.size:
            raise RecipeError(f"{what} {count} does not divide among {self.size} processes; take a multiple of it")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def told(self, value: Any) -> Any:
        """What the leader passes here, on every process."""
        if self.size == 1:
            return value
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()

    def whole(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes along the first axis, in the order of their ranks; gradients flow back."""
        if self.size == 1:
            return tensor
        import torch
        from torch import distributed

        if tensor.requires_grad:
            from torch.distributed.nn.functional import all_gather

            return torch.cat(list(all_gather(tensor)))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)


def asked_world(environment: Mapping[str, str] | None = None) -> World:
    """What torchrun's variables say; alone without them."""
    found = os.environ if environment is None else environment
    if int(found.get("WORLD_SIZE", "1")) == 1:
        return World()
    return World(int(found["RANK"]), int(found["WORLD_SIZE"]), int(found.get("LOCAL_RANK", "0")))


@contextmanager
def joined(world: World) -> Iterator[World]:
    """Connects the processes: nccl between GPUs, gloo between CPUs."""
    if world.size == 1:
        yield world
        return
    import torch
    from torch import distributed

    device = world.device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world
    finally:
        distributed.destroy_process_group()
