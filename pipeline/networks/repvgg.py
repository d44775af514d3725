"""RepVGG: three branches in training, one 3x3 convolution in the graph. Imports torch: import it inside functions.

Ding et al., arXiv 2101.03697. Batch normalization is linear in evaluation, so convolutions, normalizations and their
sum are one convolution: with s = gamma / sqrt(variance + epsilon) a branch of weight W is the weight s W and the bias
beta - s mean; a 1x1 weight is the middle of a 3x3 one, and the identity is the 1x1 weight I.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu


class RepVggBlock(nn.Module):
    """relu(BN(3x3 convolution) + BN(1x1 convolution) + BN(input)), the last where the shape stays the same."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv3 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels and stride == 1
        self.identity = nn.BatchNorm2d(out_channels) if same else None

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, out_channels, h / stride, w / stride)."""
        found = self.norm3(self.conv3(images)) + self.norm1(self.conv1(images))
        return relu(found if self.identity is None else found + self.identity(images))

    def merged(self) -> nn.Sequential:
        """One 3x3 convolution with a bias and a ReLU that give what this block gives in evaluation."""
        parts = [_folded(self.conv3.weight, self.norm3), _folded(pad(self.conv1.weight, (1, 1, 1, 1)), self.norm1)]
        if self.identity is not None:
            one = torch.eye(self.conv3.out_channels, dtype=self.conv3.weight.dtype)[:, :, None, None]
            parts.append(_folded(pad(one, (1, 1, 1, 1)), self.identity))
        conv = nn.Conv2d(self.conv3.in_channels, self.conv3.out_channels, 3, self.stride, 1)
        weight, bias = (torch.stack(each).sum(0) for each in zip(*parts, strict=True))
        conv.load_state_dict({"weight": weight, "bias": bias})
        return nn.Sequential(conv, nn.ReLU())


class RepVgg(nn.Module):
    """A block of stride 2 that is the stem, then one of stride 2 and `depths[i] - 1` of stride 1 a width."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], depths: Sequence[int], stem_stride: int, outputs: int
    ) -> None:
        super().__init__()
        first = min(64, widths[0])  # as in the paper, section 3.4
        self.stem = RepVggBlock(in_channels, first, stem_stride)
        before = [first, *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(RepVggBlock(narrow, wide, 2), *(RepVggBlock(wide, wide, 1) for _ in range(depth - 1)))
                for narrow, wide, depth in zip(before, widths, depths, strict=True)
            )
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, outputs)."""
        features: Tensor = self.stages(self.stem(images))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def with_merged_branches(network: nn.Module) -> nn.Module:
    """A copy whose RepVGG blocks are single convolutions; the network itself where it has none of them."""
    if not any(isinstance(module, RepVggBlock) for module in network.modules()):
        return network
    copied = copy.deepcopy(network)
    blocks = {name: module for name, module in copied.named_modules() if isinstance(module, RepVggBlock)}
    for name, block in blocks.items():
        holder, _, own = name.rpartition(".")
        setattr(copied.get_submodule(holder), own, block.merged())
    return copied


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(out, in, 3, 3) and (out,), in double precision: three branches are summed before they are rounded."""
    state = {name: tensor.detach().double() for name, tensor in norm.state_dict().items()}
    scale = state["weight"] / torch.sqrt(state["running_var"] + norm.eps)
    bias = state["bias"] - scale * state["running_mean"]
    return weight.detach().double() * scale[:, None, None, None], bias
