"""An exponential moving average of a network's weights. Imports torch: import it inside functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Of every floating tensor of the state; others (counters) are copied as they are.

    The decay rises from 0.1 as (1 + step) / (10 + step) up to its value, as TensorFlow's ExponentialMovingAverage has
    it, so that the first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay, self._steps = network, decay, 0
        self._average = _copied(network)

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimizer."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        for name, tensor in self._network.state_dict().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, 1 - decay)
            else:
                self._average[name].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network holds the average while this lasts."""
        own = _copied(self._network)
        self._network.load_state_dict(self._average)
        try:
            yield
        finally:
            self._network.load_state_dict(own)

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"average": self._average, "steps": self._steps}

    def restore(self, state: Mapping[str, object]) -> None:
        """What `state` gave."""
        average, steps = state["average"], state["steps"]
        if not isinstance(average, dict) or not isinstance(steps, int):
            raise TypeError("not the state of a moving average")
        for name, tensor in average.items():
            self._average[name].copy_(tensor)
        self._steps = steps


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
