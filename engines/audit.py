"""What was really built: realized layers, from the builder's log, the engine inspector or an optimized graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

Kind = Literal["convolution", "matmul", "attention", "other"]
"""`attention`: the products of queries, keys and values in one kernel."""

ITEM_BITS: Mapping[str, int] = {
    **dict.fromkeys(("float64", "int64", "uint64"), 64),
    **dict.fromkeys(("float32", "int32", "uint32"), 32),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 16),
    **dict.fromkeys(("int8", "uint8", "bool", "float8_e4m3fn", "float8_e8m0fnu"), 8),
    **dict.fromkeys(("int4", "uint4", "float4_e2m1fn"), 4),
}

_FLOAT8 = "float8_e4m3fn"

# More bytes or kernels than FP16 by this factor are worth a sentence; below it they drown in a measurement's noise.
WORSE_BYTES_RATIO = 1.05
WORSE_KERNELS_RATIO = 1.25
NAMES_SHOWN = 5


@dataclass(frozen=True)
class RealizedTensor:
    """A tensor between two realized layers: `dtype` in numpy's words (float32, float16, int8, uint8)."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    format: str = ""
    constant: bool = False


@dataclass(frozen=True)
class RealizedLayer:
    """One kernel (or node) of a built engine."""

    name: str
    kind: Kind
    operator: str
    """The runtime's own word for it."""
    inputs: tuple[RealizedTensor, ...]
    outputs: tuple[RealizedTensor, ...]
    onnx_nodes: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    """Of `onnx_nodes`, the convolutions and matrix products, where they can be told from what was fused in."""
    dequantizes: bool = False
    """Whether it takes its 8-bit operands back to float before it multiplies them."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RealizedLayer:
        """What `dataclasses.asdict` made of a layer, read back from JSON."""
        tensors = {
            name: tuple(RealizedTensor(**{**each, "dims": tuple(each["dims"])}) for each in document[name])
            for name in ("inputs", "outputs")
        }
        names = {name: tuple(document[name]) for name in ("onnx_nodes", "products")}
        return cls(**{**document, **tensors, **names})


@dataclass(frozen=True)
class Audit:
    """Realized layers in numbers; `products` are the kernels of convolutions and matrix products."""

    kernels: int
    products: int
    int8: int
    """Products whose operands, activation and weight, are both 8-bit integers."""
    float16: int
    float32: int
    other: int
    """Products of other types: bfloat16, FP8, FP64."""
    float_products: tuple[str, ...]
    """ONNX names of the products that are neither INT8 nor FP8."""
    activation_bytes: int
    """Read and written by all kernels at batch 1, weights left out; a dynamic dimension counts as 1, so a lower bound
    where the runtime merged the batch with another dimension, and no amount where other axes than the batch are
    dynamic: good for a ratio alone. Tensors of unknown type are left out."""
    float8: int = 0
    """Of `other`, those whose operands are both FP8."""
    bfloat16: int = 0
    """Of `other`, those in BF16."""
    multiply_adds: int = 0
    """Of all products at batch 1, from the sizes of their realized tensors: a padded channel counts."""
    int8_multiply_adds: int = 0
    float8_multiply_adds: int = 0

    @property
    def quantized_share(self) -> float:
        """Of the multiply-adds, in INT8 or FP8; 1 where there are none, so that none is missing."""
        quantized = self.int8_multiply_adds + self.float8_multiply_adds
        return quantized / self.multiply_adds if self.multiply_adds else 1.0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Audit:
        """What `to_json` wrote."""
        return cls(**{**document, "float_products": tuple(document["float_products"])})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "float_products": list(self.float_products)}


def summarize(layers: Iterable[RealizedLayer]) -> Audit:
    """Counts what truly runs in which precision, from the operands of each product."""
    # What moves no tensor is no kernel: shapes computed on the host, one stream waiting for another.
    kernels = [layer for layer in layers if layer.inputs or layer.outputs]
    products = [(layer, product_dtype(layer)) for layer in kernels if layer.kind != "other"]
    dtypes = [dtype for _, dtype in products]
    counted = {"int8": dtypes.count("int8"), "float16": dtypes.count("float16"), "float32": dtypes.count("float32")}
    in_float = [name for layer, dtype in products if dtype not in ("int8", _FLOAT8) for name in _product_names(layer)]
    return Audit(
        kernels=len(kernels),
        products=len(products),
        int8=counted["int8"],
        float16=counted["float16"],
        float32=counted["float32"],
        other=len(products) - sum(counted.values()),
        float_products=tuple(dict.fromkeys(in_float)),
        activation_bytes=sum(_activation_bytes(layer) for layer in kernels),
        float8=dtypes.count(_FLOAT8),
        bfloat16=dtypes.count("bfloat16"),
        multiply_adds=sum(multiply_adds(layer) for layer, _ in products),
        int8_multiply_adds=sum(multiply_adds(layer) for layer, dtype in products if dtype == "int8"),
        float8_multiply_adds=sum(multiply_adds(layer) for layer, dtype in products if dtype == _FLOAT8),
    )


def product_dtype(layer: RealizedLayer) -> str:
    """The type that a convolution or matrix product computes in: `int8` only where every operand is an 8-bit integer,
    else the widest of the other operands' types; `unknown` where an operand is not known."""
    multiplied = operands(layer)
    others = {tensor.dtype for tensor in multiplied} - {"int8", "uint8"}
    if others - ITEM_BITS.keys():
        return "unknown"
    if others:
        return max(others, key=lambda dtype: (ITEM_BITS[dtype], dtype))
    if layer.dequantizes:
        return next((tensor.dtype for tensor in layer.outputs if tensor.dtype.startswith("float")), "float32")
    return "int8" if len(multiplied) > 1 else "unknown"


def operands(layer: RealizedLayer) -> tuple[RealizedTensor, ...]:
    """The tensors that are multiplied with each other, without bias, scales and a fused residual.

    The weight is the largest constant, and larger than a bias; without one, a convolution multiplies its first two
    inputs, a matrix product all of them. Attention multiplies the three of its output's rank; the rest is its mask.
    """
    activations = tuple(tensor for tensor in layer.inputs if not tensor.constant)
    if layer.kind == "attention":
        multiplied = tuple(tensor for tensor in activations if len(tensor.dims) == _rank(layer))
        return multiplied if len(multiplied) == 3 else activations
    constants = sorted((tensor for tensor in layer.inputs if tensor.constant), key=_elements, reverse=True)
    wanted = 2 if layer.kind == "convolution" else len(activations)
    if not constants or _elements(constants[0]) == 1:
        return activations[:wanted]
    if len(activations) > 1 and _elements(constants[0]) <= _channels(layer):  # a bias: both operands are activations
        return activations[:wanted]
    return (*activations[:1], constants[0])


def multiply_adds(layer: RealizedLayer) -> int:
    """Of a product at batch 1. A weight of w elements and c output channels makes w / c for each output element; of
    two activations, the axis that is summed over is in both and not in the output."""
    multiplied, outputs = operands(layer), sum(_elements(tensor) for tensor in layer.outputs[:1])
    if len(multiplied) < 2 or outputs == 0:
        return 0
    if multiplied[-1].constant:
        return outputs * _elements(multiplied[-1]) // max(1, _channels(layer))
    if layer.kind == "attention":  # queries with keys, then their softmax with values
        return outputs * 2 * _size_at(multiplied[1], -2)
    return outputs * _size_at(multiplied[0], -1)


def compare_to_fp16(audit: Audit, fp16: Audit) -> list[str]:
    """What speaks against an INT8 or FP8 engine beside the FP16 engine of the same network; empty where nothing."""
    found: list[str] = []
    kind, quantized = ("FP8", audit.float8) if audit.float8 else ("INT8", audit.int8)
    if audit.products and not quantized:
        found.append(f"none of the {audit.products} convolutions and products takes INT8; this is no INT8 engine")
    elif quantized < audit.products:
        left = audit.products - quantized
        found.append(
            f"{left} of {audit.products} convolutions and products run{'s' if left == 1 else ''} in float: "
            f"{_shortened(audit.float_products)}"
        )
    bytes_ratio = audit.activation_bytes / max(fp16.activation_bytes, 1)
    if bytes_ratio >= WORSE_BYTES_RATIO:
        found.append(
            f"{kind} moves {bytes_ratio:.1f} times the bytes of FP16 here ({_megabytes(audit)} MB against "
            f"{_megabytes(fp16)} MB per sample); expect no gain"
        )
    if audit.kernels >= WORSE_KERNELS_RATIO * fp16.kernels:
        found.append(f"{kind} launches {audit.kernels} kernels where FP16 launches {fp16.kernels}")
    return found


def _channels(layer: RealizedLayer) -> int:
    """Of the output: as many elements as a bias has. A convolution puts them second, a matrix product last."""
    dims = layer.outputs[0].dims if layer.outputs else ()
    at = 1 if layer.kind == "convolution" else -1
    return dims[at] if len(dims) > 1 else 1


def _rank(layer: RealizedLayer) -> int:
    return len(layer.outputs[0].dims) if layer.outputs else 0


def _size_at(tensor: RealizedTensor, axis: int) -> int:
    return abs(tensor.dims[axis]) if len(tensor.dims) >= -axis else 1


def _elements(tensor: RealizedTensor) -> int:
    return prod(abs(dim) for dim in tensor.dims)


def _activation_bytes(layer: RealizedLayer) -> int:
    moved = (*(tensor for tensor in layer.inputs if not tensor.constant), *layer.outputs)
    return sum(tensor_bytes(tensor) for tensor in moved)


def tensor_bytes(tensor: RealizedTensor) -> int:
    """At batch 1; 0 where the type is not known."""
    return (_elements(tensor) * ITEM_BITS.get(tensor.dtype, 0) + 7) // 8


def _product_names(layer: RealizedLayer) -> tuple[str, ...]:
    return layer.products or layer.onnx_nodes or (layer.name,)


def _shortened(names: tuple[str, ...]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _megabytes(audit: Audit) -> str:
    return f"{audit.activation_bytes / 1e6:.3g}"
