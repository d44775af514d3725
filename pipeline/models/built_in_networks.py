"""The networks that a recipe can name without any code, and what each of them takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from pipeline.errors import RecipeError
from pipeline.models.image_networks import EfficientNet, MobileNet, RepVgg, VisionTransformer
from pipeline.models.interface import Interface
from pipeline.models.network_options import (
    Block,
    Depth,
    FeedForward,
    Heads,
    Join,
    Normalization,
    StemStride,
    Width,
    Widths,
)
from pipeline.models.network_settings import NetworkSettings, require_a_depth_each_width, require_heads_of_one_size
from pipeline.models.network_suitability import only_output

if TYPE_CHECKING:
    from torch import nn

SMALLEST_TABLE = 2
"""Of positions: a single one would be added to every token of a longer sequence."""


class Residual(NetworkSettings):
    """A residual CNN: a stem, `depths` blocks a width, mean over space, a linear head. One image in, one vector out."""

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
        if self.depths is not None:
            require_a_depth_each_width(self.depths, self.widths)
        if self.block == "bottleneck" and (odd := [width for width in self.widths if width % 4]):
            raise ValueError(f"widths holds {odd[0]}; a bottleneck's width is divisible by 4")
        return self

    def network(self, interface: Interface) -> nn.Module:
        from pipeline.networks import ResidualNetwork

        return ResidualNetwork(
            interface.inputs[0].shape[0],
            self.widths,
            only_output(interface)[0],
            self.depths,
            self.block,
            self.stem_stride,
            self.normalization,
        )


class Plain(NetworkSettings):
    """A CNN without skips: one convolution, normalization and ReLU a width. One image in, one vector out."""

    name: Literal["plain"]
    widths: Widths
    normalization: Normalization = "batch"

    def network(self, interface: Interface) -> nn.Module:
        from pipeline.networks import PlainNetwork

        return PlainNetwork(interface.inputs[0].shape[0], self.widths, only_output(interface)[0], self.normalization)


class Segmenter(NetworkSettings):
    """An encoder-decoder: one image in, a vector for every pixel out.

    Takes any height and width that is divisible by 2 ** (len(widths) - 1).
    """

    name: Literal["segmenter"]
    widths: Widths
    normalization: Normalization = "batch"
    join: Join = "add"
    """How the decoder takes what the encoder saw: added to its own, or beside it, as in U-Net."""

    def network(self, interface: Interface) -> nn.Module:
        from pipeline.networks import SegmentationNetwork

        channels, height, width = interface.inputs[0].shape
        step = 2 ** (len(self.widths) - 1)
        if height % step or width % step:
            raise RecipeError(
                f"model {self.name}: {len(self.widths)} widths need a height and a width divisible by {step}, the "
                f"images are {height}x{width}; resize them in [data] preprocess, or give fewer widths"
            )
        return SegmentationNetwork(channels, self.widths, only_output(interface)[0], self.normalization, self.join)


class Transformer(NetworkSettings):
    """A transformer encoder: a sequence, and its mask where it is padded, in; a vector, or one for each token, out."""

    name: Literal["transformer"]
    width: Width
    depth: Depth
    heads: Heads
    feed_forward: FeedForward = 4
    """Width of the hidden layer of each block, as a multiple of `width`."""
    longest: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Tokens that it takes at most; where it is not given, the length of the data."""
    vocabulary: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many ids there are, where the sequence is one of ids."""

    @model_validator(mode="after")
    def _fits_together(self) -> Transformer:
        require_heads_of_one_size(self.width, self.heads)
        return self

    def network(self, interface: Interface) -> nn.Module:
        from pipeline.networks import TransformerNetwork

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


BuiltInNetwork: TypeAlias = (
    Residual | Plain | Segmenter | Transformer | MobileNet | EfficientNet | RepVgg | VisionTransformer
)

NETWORKS: dict[str, type[BuiltInNetwork]] = {
    "residual": Residual,
    "plain": Plain,
    "segmenter": Segmenter,
    "transformer": Transformer,
    "mobilenet": MobileNet,
    "efficientnet": EfficientNet,
    "repvgg": RepVgg,
    "vision_transformer": VisionTransformer,
}
