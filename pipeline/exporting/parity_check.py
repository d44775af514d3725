"""An exported graph against its network, on real and random inputs, at other sizes of each axis that it leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.base import BATCH
from pipeline.errors import NotAcceptable, is_out_of_memory
from pipeline.exporting.exporter import resized
from pipeline.exporting.parity import OutputParity, ReferenceSession, Tolerance, compare
from pipeline.models.interface import MASK, InputSpec, Interface, named_outputs

if TYPE_CHECKING:
    from torch import nn

Inputs = Mapping[str, NDArray[Any]]
"""By name, batch first."""


@dataclass(frozen=True)
class ParityCheck:
    """What is compared with what, and how closely."""

    network: nn.Module
    interface: Interface
    outputs: tuple[str, ...]
    dynamic: tuple[str, ...]
    """Axes that the graph leaves open."""
    reference: ReferenceSession
    tolerance: Tolerance

    def results(self, real: Sequence[Inputs], seed: int) -> Iterator[OutputParity]:
        """Each output on each of the real batches, on a random one as large, and on random ones of other sizes.

        Raises NotAcceptable where the network runs at one size of a dynamic axis alone.
        """
        random = np.random.default_rng(seed)
        for batch in real:
            yield from self._on(batch, "real", self.interface)
            yield from self._on(random_inputs(self.interface, batch, random), "random", self.interface)
        for interface in self._at_other_sizes():
            yield from self._on(random_inputs(interface, real[-1], random), "random", interface)

    def _at_other_sizes(self) -> Iterator[Interface]:
        """One axis at a time, so that an axis taken for another one shows; sizes of the batch are the caller's."""
        for axis in (name for name in self.dynamic if name != BATCH):
            size = self.interface.axes()[axis]
            found = [self._first_taken(axis, sizes) for sizes in nearby_sizes(size)]
            if not any(found):
                raise NotAcceptable(
                    f"the network runs at {axis} {size} alone: about half and 1.5 times of it were tried, and "
                    f"multiples of 2, 4, 8, … near by; take '{axis}' out of [export] dynamic"
                )
            yield from (each for each in found if each is not None)

    def _first_taken(self, axis: str, sizes: Sequence[int]) -> Interface | None:
        tried = (resized(self.interface, {axis: size}) for size in sizes)
        return next((each for each in tried if self._takes(each)), None)

    def _on(self, feeds: Inputs, kind: str, interface: Interface) -> Iterator[OutputParity]:
        expected, found = self._of_network(feeds), self.reference.run(feeds)
        sizes = {name: size for name, size in interface.axes().items() if name in self.dynamic}
        batch_size = len(next(iter(feeds.values())))
        for name in self.outputs:
            errors = compare(expected[name], found[name], self.tolerance)
            shapes = (expected[name].shape, found[name].shape)
            yield OutputParity(kind, batch_size, sizes, name, *errors, *shapes)

    def _of_network(self, feeds: Inputs) -> dict[str, NDArray[Any]]:
        import torch

        arrays = [torch.from_numpy(feeds[name]) for name in self.interface.input_names]
        with torch.inference_mode():
            found = named_outputs(self.network(*arrays), self.outputs)
        return {name: output.numpy() for name, output in found.items()}

    def _takes(self, interface: Interface) -> bool:
        zeros = zip(interface.input_names, interface.zeros(2), strict=True)
        try:
            self._of_network({name: tensor.numpy() for name, tensor in zeros})
        except Exception as error:  # a network may refuse a size in whatever way
            if is_out_of_memory(error):
                raise
            return False
        return True


def random_inputs(interface: Interface, real: Inputs, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """As many as the real ones: normal where floating, values of theirs elsewhere; a mask is ones, then zeros."""
    return {spec.name: _random_input(spec, real[spec.name], random) for spec in interface.inputs}


def _random_input(spec: InputSpec, real: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    shape = (len(real), *spec.shape)
    if spec.name == MASK:
        ones = random.integers(1, spec.shape[-1], (*shape[:-1], 1), endpoint=True)
        return (np.arange(spec.shape[-1]) < ones).astype(spec.dtype)
    if np.dtype(spec.dtype).kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)
    return random.choice(real.ravel(), shape)  # another token could lie outside the vocabulary


def nearby_sizes(size: int) -> tuple[list[int], list[int]]:
    """Sizes of about half, and of about 1.5 times, the best first: some networks take multiples of 2, 4, 8, … alone."""
    powers = [1 << power for power in range(7)]
    smaller = [size // 2 // power * power for power in powers]
    larger = [-(-(size + max(1, size // 2)) // power) * power for power in powers]
    return [each for each in dict.fromkeys(smaller) if each > 0], list(dict.fromkeys(larger))
