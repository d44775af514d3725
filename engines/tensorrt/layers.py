"""Realized layers from the builder's last verbose message, `Layers:`.

Seen: TensorRT-RTX 1.7, which lists constants and separates `Datatype` from `Format`. Documented, not seen: TensorRT 10,
which says `Format/Datatype` in words and gives a convolution's weights as type and count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engines.audit import Kind, RealizedLayer, RealizedTensor
from engines.tensorrt.api import ILayer, INetworkDefinition, Module

HEADING = "Layers:"

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("correlation", "conv", "convolution", "deconv", "deconvolution"), "convolution"),
    **dict.fromkeys(("caskconvolution", "caskdeconvolution", "caskgemmconvolution"), "convolution"),
    **dict.fromkeys(("gemm", "gemv", "matmul", "matrix_multiply", "caskgemmmatrixmultiply"), "matmul"),
}
# Generated kernels that multiply matrices say so in their name alone: `_gemm_mha_v2_myl0_6`, `__myl_FcAdd_myl0_8`.
_ATTENTION_NAME = re.compile(r"_gemm_mha_")
_MATMUL_NAME = re.compile(r"_gemm_|__myl_(?:[A-Z][a-z]+)*?Fc(?![a-z])")
# ... and that they dequantize first: the casts of `__myl_CastMulCastMulCastFc_myl0_1` stand before its product.
_DEQUANTIZED_NAME = re.compile(r"__myl_(?:[A-Z][a-z]+)*?Cast(?:[A-Z][a-z]+)*?Fc(?![a-z])")

_DTYPES: Mapping[str, str] = {
    **{"float": "float32", "fp32": "float32", "half": "float16", "fp16": "float16", "bfloat16": "bfloat16"},
    **{"bf16": "bfloat16", "int8": "int8", "uint8": "uint8", "int32": "int32", "int64": "int64", "bool": "bool"},
    **{"fp8": "float8_e4m3fn", "e8m0": "float8_e8m0fnu", "int4": "int4", "fp4": "float4_e2m1fn"},
}

_TENSOR = re.compile(
    r" ?\{ Name: (?P<name>.*?),(?: Location: \w+,)? Dimensions: \[(?P<dims>[-\d,]*)\],"
    r"(?: Strides: \[[-\d,]*\], StrideOrder: \[[-\d,]*\],)?"
    r" (?:Datatype: (?P<dtype>\w+), Format: (?P<format>[^{}]*?)|Format/Datatype: (?P<words>[^{}]*?)) \}"
)
_LISTS = re.compile(r",? ?(?P<list>Inputs|Constants|Outputs): \[")
_HEAD = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<type>\w+)(?=, Inputs: \[)")
_TAIL = re.compile(r", Metadata: (?P<metadata>.*)$")
_WEIGHTS = re.compile(r"\bWeights: \{ ?\"?Type\"?: \"?(?P<dtype>\w+)\"?, \"?Count\"?: (?P<count>\d+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\s]*(?:\[ONNX Layer: |$))")


class UnreadableLayers(ValueError):
    """The builder's list of layers has a form that this file does not know."""


def product_nodes(trt: Module, network: INetworkDefinition) -> dict[str, Kind]:
    """ONNX names of the network's convolutions and matrix products."""
    kinds: dict[object, Kind] = {
        trt.LayerType.CONVOLUTION: "convolution",
        trt.LayerType.DECONVOLUTION: "convolution",
        trt.LayerType.MATRIX_MULTIPLY: "matmul",
        trt.LayerType.EINSUM: "matmul",
    }
    layers: list[ILayer] = [network.get_layer(index) for index in range(network.num_layers)]
    return {node: kinds[layer.type] for layer in layers if layer.type in kinds for node in onnx_nodes(layer.metadata)}


def realized_layers(message: str, products: Mapping[str, Kind]) -> tuple[RealizedLayer, ...]:
    """The layers of the message in execution order, given the network's products; raises UnreadableLayers."""
    if not message.startswith(HEADING):
        raise UnreadableLayers(f"it starts with {message[:40]!r}")
    body = message.removeprefix(f"{HEADING}\n").split("\n\n")[0]
    # Not splitlines: TensorRT separates the ONNX nodes of a layer by a control character that would split them too.
    layers = [_layer(line, products) for line in body.split("\n") if line.strip()]
    if not layers:
        raise UnreadableLayers("it lists no layer")
    return tuple(with_products_in_generated_kernels(layers, products))


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_ONNX_NODE.findall(metadata)))


@dataclass
class _Reader:
    """Walks one line from left to right: a name may hold commas, brackets and braces."""

    line: str
    at: int = 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.line, self.at)
        self.at = match.end() if match else self.at
        return match

    def tensors(self, constant: bool) -> tuple[RealizedTensor, ...]:
        found = []
        while match := self.take(_TENSOR):
            found.append(_tensor(match, constant))
            self.at += self.line.startswith(",", self.at)
        if not self.line.startswith("]", self.at):
            raise UnreadableLayers(f"no tensor at {self.line[self.at : self.at + 120]!r}")
        self.at += 1
        return tuple(found)


def _layer(line: str, products: Mapping[str, Kind]) -> RealizedLayer:
    reader = _Reader(line)
    head = reader.take(_HEAD)
    if head is None:
        raise UnreadableLayers(f"no layer at {line[:120]!r}")
    lists: dict[str, tuple[RealizedTensor, ...]] = {}
    while match := reader.take(_LISTS):
        lists[match["list"]] = reader.tensors(constant=match["list"] == "Constants")
    if not {"Inputs", "Outputs"} <= lists.keys():
        raise UnreadableLayers(f"no inputs and outputs in {line[:120]!r}")
    tail = _TAIL.search(line, reader.at)
    nodes = onnx_nodes(tail["metadata"]) if tail else ()
    inputs = lists["Inputs"] + lists.get("Constants", ()) + _weights(line[reader.at :])
    return realized_layer(head["name"], head["type"], inputs, lists["Outputs"], nodes, products)


def realized_layer(
    name: str,
    layer_type: str,
    inputs: tuple[RealizedTensor, ...],
    outputs: tuple[RealizedTensor, ...],
    nodes: tuple[str, ...],
    products: Mapping[str, Kind],
) -> RealizedLayer:
    """One layer as TensorRT names it; constants and weights are among its inputs."""
    kind = _kind(layer_type, name)
    return RealizedLayer(
        name=name,
        kind=kind,
        operator=layer_type,
        inputs=inputs,
        outputs=outputs,
        onnx_nodes=nodes,
        products=tuple(node for node in nodes if node in products) if kind != "other" else (),
        dequantizes=_DEQUANTIZED_NAME.match(name) is not None,
    )


def realized_tensor(
    name: str, dims: tuple[int, ...], dtype: str | None, words: str, constant: bool = False
) -> RealizedTensor:
    """`dtype` in TensorRT's word for it, or None where it stands among the words of its format."""
    return RealizedTensor(name, _dtype(dtype) if dtype else _dtype_from_words(words), dims, words, constant)


def weights_tensor(dtype: str, count: int) -> RealizedTensor:
    """Weights of which TensorRT tells type and number alone."""
    return RealizedTensor("Weights", _dtype(dtype), (count,), "", True)


def _kind(layer_type: str, name: str) -> Kind:
    generated: Kind = "matmul" if _MATMUL_NAME.match(name) else "other"
    return _KINDS.get(layer_type.lower(), "attention" if _ATTENTION_NAME.match(name) else generated)


def _tensor(match: re.Match[str], constant: bool) -> RealizedTensor:
    dims = tuple(int(size) for size in match["dims"].split(",") if size)
    return realized_tensor(match["name"], dims, match["dtype"], match["format"] or match["words"] or "", constant)


def _dtype(word: str) -> str:
    try:
        return _DTYPES[word.lower()]
    except KeyError:
        raise UnreadableLayers(f"datatype {word!r} is unknown") from None


def _dtype_from_words(words: str) -> str:
    """Of `Row major linear FP32`, or `Thirty-two wide channel vectorized row major Int8 format`, or `Half`."""
    found = [word for word in re.findall(r"\w+", words) if word.lower() in _DTYPES]
    if not found:
        raise UnreadableLayers(f"no datatype in {words!r}")
    return _dtype(found[0])


def _weights(rest: str) -> tuple[RealizedTensor, ...]:
    match = _WEIGHTS.search(rest)
    return (weights_tensor(match["dtype"], int(match["count"])),) if match else ()


def with_products_in_generated_kernels(
    layers: Sequence[RealizedLayer], products: Mapping[str, Kind]
) -> list[RealizedLayer]:
    """A product too small for a library kernel is part of a generated one, which tells by its ONNX nodes alone."""
    realized = {node for layer in layers for node in layer.products}
    found = list(layers)
    for node, kind in products.items():
        at = next((at for at, layer in enumerate(found) if node in layer.onnx_nodes), None)
        if node in realized or at is None:  # None: folded into a constant
            continue
        layer = found[at]
        found[at] = replace(layer, kind=kind if layer.kind == "other" else layer.kind, products=(*layer.products, node))
    return found
