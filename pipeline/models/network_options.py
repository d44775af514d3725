"""The types of options that several of the built-in networks take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Width = Annotated[int, Field(ge=1, le=65_536)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]
Depth = Annotated[int, Field(ge=1, le=1024)]
Heads = Annotated[int, Field(ge=1, le=1024)]
FeedForward = Annotated[int, Field(ge=1, le=64)]
Factor = Annotated[float, Field(gt=0, le=16)]
"""Of all channels or depths of a published network."""
Normalization = Literal["batch", "group"]
"""Group normalization does not depend on the batch, so it is the same however many processes share one."""
Block = Literal["basic", "bottleneck"]
StemStride = Literal[1, 2, 4]
FirstStride = Literal[1, 2]
"""Of the first convolution; 1 is for images of a few dozen pixels."""
MobileNetSize = Literal["large", "small"]
Join = Literal["add", "concatenate"]
