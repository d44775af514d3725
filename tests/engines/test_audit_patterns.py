"""Patterns in realized layers, on graphs that TensorRT-RTX built and on layers made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorrt_graphs import QUANTIZED, RTX, TARGET, needs_tensorrt_rtx, quantization, weights, written

from engines.audit import RealizedLayer, RealizedTensor, multiply_adds, summarize
from engines.audit_patterns import PATTERNS, Occurrence, occurrences


def tensor(
    name: str, dtype: str = "int8", dims: tuple[int, ...] = (-1, 16, 8, 8), constant: bool = False
) -> RealizedTensor:
    return RealizedTensor(name, dtype, dims, constant=constant)


def convolution(name: str, read: RealizedTensor, wrote: RealizedTensor, weight: str = "int8") -> RealizedLayer:
    constant = tensor(f"{name}.w", weight, (16, 16, 3, 3), constant=True)
    return RealizedLayer(name, "convolution", "conv", (read, constant), (wrote,), (name,), (name,))


def kernel(name: str, read: tuple[RealizedTensor, ...], wrote: tuple[RealizedTensor, ...]) -> RealizedLayer:
    return RealizedLayer(name, "other", "kgen", read, wrote, (name,))


def found(*layers: RealizedLayer, dla: bool = False) -> dict[str, tuple[str, ...]]:
    return {each.pattern: each.nodes for each in occurrences(layers, dla)}


X, Y, F = tensor("x"), tensor("y"), tensor("f", "float32")


def test_a_quantized_product_with_a_quantized_result_has_no_pattern() -> None:
    assert found(convolution("conv", X, Y)) == {}


def test_a_float_result_that_a_kernel_of_its_own_quantizes_is_told() -> None:
    layers = convolution("conv", X, F), kernel("relu", (F,), (Y,))
    [occurrence] = occurrences(layers)
    assert (occurrence.pattern, occurrence.nodes) == ("float-result", ("conv",))
    assert occurrence.activation_bytes == 16 * 64 + 4 * 16 * 64


def test_a_float_result_that_ends_the_network_is_none() -> None:
    assert found(convolution("conv", X, F), kernel("sigmoid", (F,), (tensor("g", "float32"),))) == {}


@pytest.mark.parametrize(
    ("layer", "pattern"),
    [
        (convolution("c", F, Y, weight="int8"), "one-sided-product"),
        (convolution("c", X, Y, weight="float32"), "one-sided-product"),
        (convolution("c", F, F, weight="float32"), "float-product"),
        (replace(convolution("c", X, F), dequantizes=True), "dequantized-product"),
        (replace(convolution("c", F, F, weight="float16"), operator="deconvolution"), "transposed-convolution"),
        (replace(kernel("c", (X,), (Y,)), operator="Reformat"), "reformat"),
    ],
)
def test_each_kernel_has_the_pattern_that_says_most(layer: RealizedLayer, pattern: str) -> None:
    assert list(found(layer)) == [pattern]


def test_an_island_has_quantized_kernels_around_and_a_reader() -> None:
    inside, after = tensor("g", "float32"), tensor("h", "float32")
    layers = (
        convolution("first", X, F),
        kernel("norm", (F,), (inside,)),
        kernel("quantize", (inside,), (tensor("q"),)),
        convolution("second", tensor("q"), after),
        kernel("softmax", (after,), (tensor("out", "float32"),)),
    )
    assert found(*layers) == {"float-island": ("norm",)}


def test_what_a_dla_leaves_to_the_gpu_is_told_where_there_is_one() -> None:
    on_dla = replace(convolution("conv", X, Y), operator="DLA")
    left = kernel("resize", (Y,), (tensor("z"),))
    assert found(on_dla, left) == {}
    assert found(on_dla, left, dla=True) == {"outside-dla": ("resize",)}


def test_every_pattern_says_what_it_means_and_what_to_do() -> None:
    document = Occurrence("float-copy", 2, ("add",), 9).to_json()
    assert document["meaning"] == PATTERNS["float-copy"].meaning
    assert all(each.meaning and each.remedy for each in PATTERNS.values())


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 16 x 16 x 3 x 3 weights at each of 64 places.
        (convolution("c", X, F), 16 * 16 * 9 * 64),
        # Depthwise: one input channel for each output channel.
        (
            RealizedLayer(
                "d",
                "convolution",
                "conv",
                (X, tensor("w", "int8", (16, 1, 3, 3), constant=True)),
                (F,),
                products=("d",),
            ),
            16 * 9 * 64,
        ),
        # (8 x 12) times (12 x 20).
        (
            RealizedLayer(
                *("m", "matmul", "gemm", (tensor("a", "int8", (-1, 8, 12)), tensor("b", "int8", (-1, 12, 20)))),
                (tensor("o", "float32", (-1, 8, 20)),),
            ),
            8 * 12 * 20,
        ),
        # Three heads of 7 queries with 9 keys of 4: 7 x 9 x 4, twice.
        (
            RealizedLayer(
                *(
                    "h",
                    "attention",
                    "mha",
                    tuple(tensor(n, "float16", (-1, 3, s, 4)) for n, s in (("q", 7), ("k", 9), ("v", 9))),
                ),
                (tensor("o", "float16", (-1, 3, 7, 4)),),
            ),
            3 * 2 * 7 * 9 * 4,
        ),
    ],
)
def test_multiply_adds_follow_from_the_sizes_of_the_realized_tensors(layer: RealizedLayer, expected: int) -> None:
    assert multiply_adds(layer) == expected


@needs_tensorrt_rtx
def test_a_residual_in_float_is_read_back_as_a_float_copy(tmp_path: Path) -> None:
    graph = written(tmp_path, QUANTIZED, weights() | quantization())
    built = RTX.build(graph, "int8", TARGET, tmp_path / "e.plan")
    patterns = {each.pattern: each for each in occurrences(built.layers)}
    assert "relu1" in patterns["float-copy"].nodes
    assert summarize(built.layers).quantized_share == 1.0


@needs_tensorrt_rtx
def test_a_transposed_convolution_is_told_with_its_node(tmp_path: Path) -> None:
    nodes = """
      xq = QuantizeLinear(x, one, zero)
      xd = DequantizeLinear(xq, one, zero)
      w1q = QuantizeLinear<axis=1>(w1, many, zeros)
      w1d = DequantizeLinear<axis=1>(w1q, many, zeros)
      [up] y = ConvTranspose<pads=[1,1,1,1]>(xd, w1d, b1)
    """
    graph = written(tmp_path, nodes, weights(np.float32) | quantization())
    built = RTX.build(graph, "int8", TARGET, tmp_path / "e.plan")
    assert {each.pattern: each.nodes for each in occurrences(built.layers)}["transposed-convolution"] == ("up",)
