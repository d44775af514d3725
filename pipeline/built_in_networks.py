"""The networks that a recipe can name without any code, and what each of them takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import RecipeError
from pipeline.interface import MASK, Interface, Shape

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=65_536)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]
Depth = Annotated[int, Field(ge=1, le=1024)]
Normalization = Literal["batch", "group"]
"""Group normalization does not depend on the batch, so it is the same however many processes share one."""
Block = Literal["basic", "bottleneck"]
StemStride = Literal[1, 2, 4]

SMALLEST_TABLE = 2
"""Of positions: a single one would be added to every token of a longer sequence."""


class Residual(BaseModel):
    """A residual CNN: a stem, `depths` blocks a width, mean over space, a linear head. One image in, one vector out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["residual"]
    widths: Widths
    depths: tuple[Depth, ...] | None = None
    """Blocks a width; one each where it is not given."""
    block: Block = "basic"
    """The bottlenecks of ResNet-50 have a quarter of their width inside; `widths` are the outer ones."""
    stem_stride: StemStride = 1
    """4 is ResNet's: a 7x7 convolution of stride 2, and a maximum over 3x3 of stride 2."""
    normalization: Normalization = "batch"

    @model_validator(mode="after")
    def _fits_together(self) -> Residual:
        if self.depths is not None and len(self.depths) != len(self.widths):
            raise ValueError(f"depths has {len(self.depths)} values and widths {len(self.widths)}; give one a width")
        if self.block == "bottleneck" and (odd := [width for width in self.widths if width % 4]):
            raise ValueError(f"widths holds {odd[0]}; a bottleneck's width is divisible by 4")
        return self

    def make(self, interface: Interface, recipe_folder: Path) -> nn.Module:
        """A network with fresh weights from torch's random state."""
        del recipe_folder
        from pipeline.networks import ResidualNetwork

        _refuse_unless_suited(self.name, interface)
        return ResidualNetwork(
            interface.inputs[0].shape[0],
            self.widths,
            only_output(interface)[0],
            self.depths,
            self.block,
            self.stem_stride,
            self.normalization,
        )


class Plain(BaseModel):
    """A CNN without skips: one convolution, normalization and ReLU a width. One image in, one vector out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["plain"]
    widths: Widths
    normalization: Normalization = "batch"

    def make(self, interface: Interface, recipe_folder: Path) -> nn.Module:
        """A network with fresh weights from torch's random state."""
        del recipe_folder
        from pipeline.networks import PlainNetwork

        _refuse_unless_suited(self.name, interface)
        return PlainNetwork(interface.inputs[0].shape[0], self.widths, only_output(interface)[0], self.normalization)


class Segmenter(BaseModel):
    """An encoder-decoder: one image in, a vector for every pixel out.

    Takes any height and width that is divisible by 2 ** (len(widths) - 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["segmenter"]
    widths: Widths
    normalization: Normalization = "batch"

    def make(self, interface: Interface, recipe_folder: Path) -> nn.Module:
        """A network with fresh weights from torch's random state."""
        del recipe_folder
        from pipeline.networks import SegmentationNetwork

        _refuse_unless_suited(self.name, interface)
        channels, height, width = interface.inputs[0].shape
        step = 2 ** (len(self.widths) - 1)
        if height % step or width % step:
            raise RecipeError(
                f"model {self.name}: {len(self.widths)} widths need a height and a width divisible by {step}, the "
                f"images are {height}x{width}; resize them in [data] preprocess, or give fewer widths"
            )
        return SegmentationNetwork(channels, self.widths, only_output(interface)[0], self.normalization)


class Transformer(BaseModel):
    """A transformer encoder: a sequence, and its mask where it is padded, in; a vector, or one for each token, out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["transformer"]
    width: Width
    depth: Depth
    heads: Annotated[int, Field(ge=1, le=1024)]
    feed_forward: Annotated[int, Field(ge=1, le=64)] = 4
    """Width of the hidden layer of each block, as a multiple of `width`."""
    longest: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Tokens that it takes at most; where it is not given, the length of the data."""
    vocabulary: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many ids there are, where the sequence is one of ids."""

    @model_validator(mode="after")
    def _fits_together(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}; give a multiple of it")
        return self

    def make(self, interface: Interface, recipe_folder: Path) -> nn.Module:
        """A network with fresh weights from torch's random state."""
        del recipe_folder
        from pipeline.networks import TransformerNetwork

        _refuse_unless_suited(self.name, interface)
        length, outputs = interface.inputs[0].shape[0], only_output(interface)
        longest = self.longest or length
        if length > longest:
            raise RecipeError(f"model {self.name}: longest is {longest}, the data has sequences of {length}; raise it")
        return TransformerNetwork(
            self._embedding(interface),
            self.width,
            self.depth,
            self.heads,
            self.feed_forward,
            max(longest, SMALLEST_TABLE),
            outputs[-1],
            per_token=len(outputs) == 2,
        )

    def _embedding(self, interface: Interface) -> nn.Linear | nn.Embedding:
        from torch import nn

        first = interface.inputs[0]
        if (len(first.shape) == 1) != (self.vocabulary is not None):
            kind, advice = ("ids", "give") if self.vocabulary is None else ("features", "leave out")
            raise RecipeError(f"model {self.name}: '{first.name}' is a sequence of {kind}; {advice} vocabulary")
        if self.vocabulary is not None:
            return nn.Embedding(self.vocabulary, self.width)
        return nn.Linear(first.shape[1], self.width)


NETWORKS: dict[str, type[Residual] | type[Plain] | type[Segmenter] | type[Transformer]] = {
    "residual": Residual,
    "plain": Plain,
    "segmenter": Segmenter,
    "transformer": Transformer,
}


def interface_in_words(interface: Interface) -> str:
    """`rows (8, 8), mask (8,) -> logits (10,)`."""
    inputs = ", ".join(f"{spec.name} {spec.shape}" for spec in interface.inputs)
    outputs = ", ".join(f"{name} {shape or 'of any shape'}" for name, shape in interface.outputs.items())
    return f"{inputs} -> {outputs}"


def only_output(interface: Interface) -> Shape:
    """Shape of one sample's output where there is a single one of a known shape, else ()."""
    shapes = list(interface.outputs.values())
    return shapes[0] or () if len(shapes) == 1 else ()


def _is_image_to_vector(interface: Interface) -> bool:
    return interface.is_one_image() and len(only_output(interface)) == 1


def _is_image_to_image(interface: Interface) -> bool:
    output = only_output(interface)
    return interface.is_one_image() and len(output) == 3 and output[1:] == interface.inputs[0].shape[1:]


def _is_sequence(interface: Interface) -> bool:
    first, *others = interface.inputs
    # Features are floating-point numbers, ids are whole ones.
    numbers = {1: "iu", 2: "f"}.get(len(first.shape), "")
    masks = [(spec.name, spec.shape) for spec in others]
    output = only_output(interface)
    return (
        bool(numbers)
        and np.dtype(first.dtype).kind in numbers
        and masks in ([], [(MASK, first.shape[:1])])
        and (len(output) == 1 or (len(output) == 2 and output[0] == first.shape[0]))
    )


SUITS: dict[str, Callable[[Interface], bool]] = {
    "plain": _is_image_to_vector,
    "residual": _is_image_to_vector,
    "segmenter": _is_image_to_image,
    "transformer": _is_sequence,
}


def _refuse_unless_suited(name: str, interface: Interface) -> None:
    if SUITS[name](interface):
        return
    suited = [other for other, suits in SUITS.items() if suits(interface)]
    own = 'make one in a file of your own, { file = "models.py:function" }'
    raise RecipeError(
        f"model {name}: is not made for {interface_in_words(interface)}; "
        + (f"use {' or '.join(suited)}, or {own}" if suited else f"no built-in network is: {own}")
    )
