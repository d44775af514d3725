"""What each family of runtimes wants of a Q/DQ graph, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Family:
    """How one kind of runtime represents quantized tensors, and which rules place them."""

    name: str
    rules: Literal["cpu", "tensorrt", "dla"]
    activation_dtype: Literal["int8", "uint8", "float8_e4m3fn"]
    symmetric_activations: bool
    """True: the zero-point is 0 and the scale comes from amax. False: the scale covers [low, high]."""
    weight_limit: int
    """Weights are signed symmetric, in [-weight_limit, weight_limit]."""
    int32_bias: bool
    """True: biases are INT32 with scale s_x * s_w. False: they stay float."""
    weight_granularity: Literal["channel", "tensor"] = "channel"
    """One scale for each output channel, or one for the whole weight."""
    levels: int = 127
    """A symmetric scale is amax / levels."""
    takes_float16: bool = False
    """Whether half precision beside the 8-bit products pays, and FP8 in their place."""
    requantizes_apart: bool = False
    """Whether a kernel of its own makes 8 bits of a product's result, also behind a Relu: what stands there costs no
    kernel more."""
    quantizes_downsampled_skip: bool = True
    """Whether the convolution on a skip gets a Q of its own before the residual add reads it; the rules `cpu` give one
    to every convolution."""


FAMILY: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="cpu-vnni",
            rules="cpu",
            activation_dtype="uint8",  # vpdpbusd multiplies unsigned by signed
            symmetric_activations=False,
            weight_limit=127,  # ... and, unlike vpmaddubsw, does not saturate
            int32_bias=True,
        ),
        Family(
            name="cpu-avx2",
            rules="cpu",
            activation_dtype="uint8",
            symmetric_activations=False,
            weight_limit=64,  # vpmaddubsw adds two u8 x s8 products in INT16: 2 * 255 * 64 = 32,640 still fits
            int32_bias=True,
        ),
        Family(
            name="cpu-arm64",
            rules="cpu",
            activation_dtype="int8",  # sdot and smmla multiply signed by signed
            symmetric_activations=False,
            weight_limit=127,
            int32_bias=True,
        ),
        Family(
            name="tensorrt",
            rules="tensorrt",
            activation_dtype="int8",  # TensorRT refuses UINT8 scaled for 255 levels
            symmetric_activations=True,  # TensorRT refuses zero-points
            weight_limit=127,
            int32_bias=False,  # TensorRT refuses an INT32 bias behind DequantizeLinear
            takes_float16=True,
            quantizes_downsampled_skip=True,  # NVIDIA, "Q/DQ placement recommendations": INT8 into the fused add
        ),
        Family(
            name="tensorrt-rtx",
            rules="tensorrt",
            activation_dtype="int8",  # TensorRT refuses UINT8 scaled for 255 levels
            symmetric_activations=True,  # TensorRT refuses zero-points
            weight_limit=127,
            int32_bias=False,  # TensorRT refuses an INT32 bias behind DequantizeLinear
            takes_float16=True,
            requantizes_apart=True,  # a ResNet-50 and a MobileNetV3, built with 1.7 both ways: the same kernels
            quantizes_downsampled_skip=False,  # built both ways with 1.7: the same kernels, the same bytes
        ),
        Family(
            name="tensorrt-dla",
            rules="dla",
            activation_dtype="int8",
            symmetric_activations=True,
            weight_limit=127,  # one scale a kernel: NVDLA, "Low precision support", re-scaling of outputs
            int32_bias=False,
        ),
    )
}
"""Placement families by name."""


E4M3_MAX = 448
"""The largest value of FP8 E4M3."""


def in_fp8(family: Family) -> Family:
    """The family with FP8 E4M3 in place of INT8, scale = amax / 448.

    One scale a weight: floating-point numbers keep small channels, and scales per channel cost TensorRT-RTX 1.7 a
    kernel and float32 results (built and read).
    """
    return replace(
        family,
        activation_dtype="float8_e4m3fn",
        weight_limit=E4M3_MAX,
        weight_granularity="tensor",
        levels=E4M3_MAX,
    )
