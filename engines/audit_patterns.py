"""Why a built engine is not what was hoped for: patterns in its realized layers, each with what would mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from engines.audit import RealizedLayer, RealizedTensor, operands, product_dtype, tensor_bytes

_QUANTIZED = frozenset({"int8", "uint8", "float8_e4m3fn"})
_PAIRS = ("QuantizeLinear", "DequantizeLinear")  # how Q/DQ nodes are usually named: they say where, not what
_REFORMATS = ("reformat", "reorder", "noop", "copy")

PatternName = Literal[
    "transposed-convolution",
    "one-sided-product",
    "dequantized-product",
    "float-product",
    "float-result",
    "float-copy",
    "float-island",
    "reformat",
    "outside-dla",
]


@dataclass(frozen=True)
class Pattern:
    """A sentence for people: what the builder does there, and what to change."""

    name: PatternName
    meaning: str
    remedy: str


PATTERNS: Mapping[PatternName, Pattern] = {
    each.name: each
    for each in (
        Pattern(
            "transposed-convolution",
            "a transposed convolution runs in float whatever its operands are",
            "leave it out of INT8, so that nothing is quantized in vain",
        ),
        Pattern(
            "one-sided-product",
            "only one operand is quantized, and the product runs in float with Q/DQ as overhead",
            "quantize both operands or neither",
        ),
        Pattern(
            "dequantized-product",
            "it takes its 8-bit operands back to float before it multiplies them",
            "give the weight one scale per output channel: axis 0 of a convolution, axis 1 of a matrix product",
        ),
        Pattern(
            "float-product",
            "both operands are in float",
            "where it was not left in float on purpose, put Q/DQ in front of both operands",
        ),
        Pattern(
            "float-result",
            "a quantized product writes its result in float, and a kernel of its own makes 8 bits of it",
            "none in the graph: per-channel scales do not fit into the product's own kernel here; FP16 avoids the trip",
        ),
        Pattern(
            "float-copy",
            "a kernel writes a float copy beside the 8-bit tensor",
            "let all readers of the tensor, such as a residual add, share one DequantizeLinear",
        ),
        Pattern(
            "float-island",
            "kernels in float between 8-bit tensors",
            "operators that have no 8-bit form end INT8 around them; where they are many, INT8 cannot gain",
        ),
        Pattern(
            "reformat",
            "a kernel only changes how a tensor lies in memory",
            "more operators of one precision side by side need fewer of them",
        ),
        Pattern(
            "outside-dla",
            "the DLA does not run it, so the GPU does, and tensors travel between both",
            "replace the operator, or build for the GPU alone",
        ),
    )
}


@dataclass(frozen=True)
class Occurrence:
    """A pattern and where an engine has it."""

    pattern: PatternName
    kernels: int
    nodes: tuple[str, ...]
    """ONNX names, or the runtime's where it does not tell them."""
    activation_bytes: int
    """That these kernels read and write at batch 1."""

    def to_json(self) -> dict[str, Any]:
        """With the pattern's own sentences, for readers without this table."""
        pattern = PATTERNS[self.pattern]
        return {**asdict(self), "nodes": list(self.nodes), "meaning": pattern.meaning, "remedy": pattern.remedy}


def occurrences(layers: Sequence[RealizedLayer], dla: bool = False) -> tuple[Occurrence, ...]:
    """The patterns of a quantized engine in the order of the table; `dla`: whether it was built for one."""
    flow = _Flow(layers)
    found: dict[PatternName, list[RealizedLayer]] = {name: [] for name in PATTERNS}
    for layer in layers:
        for name, holds in _RULES:
            if holds(layer, flow):
                found[name].append(layer)
                break
    if dla:
        found["outside-dla"] = [layer for layer in layers if layer.operator.lower() != "dla" and _moves(layer)]
    return tuple(_occurrence(name, each) for name, each in found.items() if each)


@final
class _Flow:
    """Which kernels read and write a tensor."""

    def __init__(self, layers: Sequence[RealizedLayer]) -> None:
        self._readers: dict[str, list[RealizedLayer]] = {}
        self._writer: dict[str, RealizedLayer] = {}
        for layer in layers:
            for tensor in layer.inputs:
                self._readers.setdefault(tensor.name, []).append(layer)
            for tensor in layer.outputs:
                self._writer[tensor.name] = layer

    def readers(self, tensor: RealizedTensor) -> Sequence[RealizedLayer]:
        return self._readers.get(tensor.name, ())

    def near_quantized(self, layer: RealizedLayer) -> bool:
        """Whether what it reads comes from, or what it writes goes to, a kernel with 8-bit tensors."""
        writers = (self._writer[tensor.name] for tensor in _activations(layer) if tensor.name in self._writer)
        around = [*writers, *(reader for tensor in layer.outputs for reader in self.readers(tensor))]
        return any(tensor.dtype in _QUANTIZED for each in around for tensor in (*_activations(each), *each.outputs))


Rule = Callable[[RealizedLayer, _Flow], bool]


def _is_transposed(layer: RealizedLayer, _: _Flow) -> bool:
    return _in_float(layer) and "deconv" in layer.operator.lower()


def _is_one_sided(layer: RealizedLayer, _: _Flow) -> bool:
    kinds = [tensor.dtype in _QUANTIZED for tensor in operands(layer)] if layer.kind != "other" else []
    return any(kinds) and not all(kinds)


def _is_dequantized(layer: RealizedLayer, _: _Flow) -> bool:
    return layer.kind != "other" and layer.dequantizes


def _is_float(layer: RealizedLayer, _: _Flow) -> bool:
    return _in_float(layer)


def _gives_float(layer: RealizedLayer, flow: _Flow) -> bool:
    """A quantized product whose float result is read by kernels that quantize it."""
    if layer.kind == "other" or not layer.outputs or layer.outputs[0].dtype in _QUANTIZED:
        return False
    readers = flow.readers(layer.outputs[0])
    return bool(readers) and all(
        reader.kind == "other" and any(tensor.dtype in _QUANTIZED for tensor in reader.outputs) for reader in readers
    )


def _copies_float(layer: RealizedLayer, _: _Flow) -> bool:
    quantized = {tensor.dims for tensor in layer.outputs if tensor.dtype in _QUANTIZED}
    return any(tensor.dims in quantized for tensor in layer.outputs if tensor.dtype.startswith("float"))


def _is_island(layer: RealizedLayer, flow: _Flow) -> bool:
    if layer.kind != "other" or not _moves(layer) or not _activations(layer):
        return False
    tensors = (*_activations(layer), *layer.outputs)
    in_float = all(tensor.dtype in ("float32", "float16", "bfloat16") for tensor in tensors)
    is_read = any(flow.readers(tensor) for tensor in layer.outputs)  # what ends the network is no island
    return in_float and is_read and flow.near_quantized(layer)


def _is_reformat(layer: RealizedLayer, _: _Flow) -> bool:
    return layer.kind == "other" and any(word in layer.operator.lower() for word in _REFORMATS)


# The first that holds names a kernel.
_RULES: tuple[tuple[PatternName, Rule], ...] = (
    ("transposed-convolution", _is_transposed),
    ("one-sided-product", _is_one_sided),
    ("dequantized-product", _is_dequantized),
    ("float-product", _is_float),
    ("float-result", _gives_float),
    ("float-copy", _copies_float),
    ("reformat", _is_reformat),
    ("float-island", _is_island),
)


def _in_float(layer: RealizedLayer) -> bool:
    return layer.kind != "other" and product_dtype(layer) not in ("int8", "float8_e4m3fn")


def _moves(layer: RealizedLayer) -> bool:
    return bool(layer.inputs or layer.outputs)


def _activations(layer: RealizedLayer) -> tuple[RealizedTensor, ...]:
    return tuple(tensor for tensor in layer.inputs if not tensor.constant)


def _occurrence(name: PatternName, layers: Sequence[RealizedLayer]) -> Occurrence:
    nodes = dict.fromkeys(node for layer in layers for node in _named(layer))
    moved = (tensor_bytes(tensor) for layer in layers for tensor in (*_activations(layer), *layer.outputs))
    return Occurrence(name, len(layers), tuple(nodes), sum(moved))


def _named(layer: RealizedLayer) -> Iterator[str]:
    nodes = layer.products or tuple(node for node in layer.onnx_nodes if not node.startswith(_PAIRS))
    yield from nodes or (layer.name,)
