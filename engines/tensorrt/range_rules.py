"""What is known of a tensor that the parser invented, from the layers that write and read it.

Rules by kind of layer (`ParsedLayer.kind`), the exact ones first. None cuts off what the measured tensors keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engines.tensorrt.parsed_network import ParsedLayer, ParsedNetwork

MOVES = frozenset({"SHUFFLE", "IDENTITY", "CAST", "SQUEEZE", "UNSQUEEZE"})
"""The same values at other places: what is known of one side is known of the other."""

KEEPS = frozenset(
    {"SLICE", "GATHER", "CONCATENATION", "PADDING", "REVERSE_SEQUENCE", "SCATTER", "SELECT", "TOPK"}
    | {"POOLING MAX", "POOLING AVERAGE", "REDUCE MAX", "REDUCE MIN", "REDUCE AVG", "RESIZE NEAREST", "RESIZE LINEAR"}
    | {"ELEMENTWISE MAX", "ELEMENTWISE MIN", "ACTIVATION RELU", "UNARY ABS", "UNARY NEG"}
    | MOVES
)
"""No output is larger than the largest input."""

BOUNDED: Mapping[str, float] = {
    **dict.fromkeys(("SOFTMAX", "ACTIVATION SIGMOID", "ACTIVATION HARD_SIGMOID", "ACTIVATION TANH"), 1.0),
    **dict.fromkeys(("ACTIVATION SOFTSIGN", "UNARY ERF", "UNARY SIN", "UNARY COS"), 1.0),
}
"""The largest magnitude that comes out, whatever comes in."""

CUTS = frozenset({"ACTIVATION RELU", "ACTIVATION CLIP"})
"""What the range of the output cuts off of the input, the layer cuts off anyway."""

BY_NAME = "table"
"""The source of a range that the table gives itself."""


@dataclass(frozen=True)
class TensorRange:
    """[-amax, amax] of one tensor, and whence it is known."""

    amax: float
    source: str
    """`BY_NAME`, or the layer that it follows from."""


@dataclass
class Known:
    """The ranges so far, and the network that they are of."""

    network: ParsedNetwork
    ranges: dict[str, TensorRange]
    constants: dict[str, TensorRange] = field(init=False)
    """Of tensors that do not depend on the network's input."""

    def __post_init__(self) -> None:
        self.constants = _constants(self.network)

    def complete(self) -> None:
        """Follows the rules until none says anything new, a weaker one only where no stronger one does."""
        while any(self._follow(rule) for rule in _RULES):
            pass

    def largest(self, layer: ParsedLayer) -> float | None:
        """Of what a layer reads; None where that is not known of all of it."""
        amax = [self.ranges[name].amax for name in layer.inputs if name in self.ranges]
        return max(amax) if amax and len(amax) == len(layer.inputs) else None

    def written(self, layer: ParsedLayer) -> float | None:
        """Of the one tensor that a layer writes."""
        found = self.ranges.get(layer.outputs[0]) if len(layer.outputs) == 1 else None
        return None if found is None else found.amax

    def _follow(self, rule: Rule) -> bool:
        found = {}
        for name in self.network.tensors:
            if name not in self.ranges and (known := rule(self, name)) is not None:
                found[name] = known
        self.ranges |= found
        return bool(found)


Rule = Callable[[Known, str], "TensorRange | None"]


def _constants(network: ParsedNetwork) -> dict[str, TensorRange]:
    found: dict[str, TensorRange] = {}
    grows = True
    while grows:  # TensorRT may list a layer before one that it reads
        before = len(found)
        for layer in network.layers:
            amax = layer.constant_amax
            if amax is None and layer.kind in KEEPS and layer.inputs and all(name in found for name in layer.inputs):
                amax = max(found[name].amax for name in layer.inputs)
            if amax is not None:
                found |= {name: TensorRange(amax, str(layer)) for name in layer.outputs}
        grows = len(found) > before
    return found


def _constant(known: Known, tensor: str) -> TensorRange | None:
    return known.constants.get(tensor)


def _moved(known: Known, tensor: str) -> TensorRange | None:
    writer = known.network.writer.get(tensor)
    if writer is not None and writer.kind in MOVES and (amax := known.largest(writer)) is not None:
        return TensorRange(amax, str(writer))
    for reader in known.network.readers.get(tensor, ()):
        if reader.kind in MOVES and (amax := known.written(reader)) is not None:
            return TensorRange(amax, str(reader))
    return None


def _cut(known: Known, tensor: str) -> TensorRange | None:
    reader = _sole_reader(known, tensor)
    if reader is None or reader.kind not in CUTS or (amax := known.written(reader)) is None:
        return None
    return TensorRange(amax, str(reader))


def _bounded(known: Known, tensor: str) -> TensorRange | None:
    writer = known.network.writer.get(tensor)
    return TensorRange(BOUNDED[writer.kind], str(writer)) if writer is not None and writer.kind in BOUNDED else None


def _kept(known: Known, tensor: str) -> TensorRange | None:
    writer = known.network.writer.get(tensor)
    if writer is None or writer.kind not in KEEPS or (amax := known.largest(writer)) is None:
        return None
    return TensorRange(amax, str(writer))


def _added_to(known: Known, tensor: str) -> TensorRange | None:
    """The parser writes a Gemm as a product plus a constant: |x| <= |x + c| + |c|."""
    reader = _sole_reader(known, tensor)
    if reader is None or reader.kind != "ELEMENTWISE SUM" or (amax := known.written(reader)) is None:
        return None
    others = [known.constants[name].amax for name in reader.inputs if name in known.constants]
    return TensorRange(amax + others[0], str(reader)) if len(others) == 1 else None


def _sole_reader(known: Known, tensor: str) -> ParsedLayer | None:
    readers = known.network.readers.get(tensor, ())
    return readers[0] if len(readers) == 1 else None


_RULES: tuple[Rule, ...] = (_constant, _moved, _cut, _bounded, _kept, _added_to)
"""To add one: a function above, and its place by strength."""
