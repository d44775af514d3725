"""The largest logits of each decision, and what all others weigh together. Imports torch inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def top_k_of(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """(values, places, rest) of logits with classes on axis 1: (batch, k, ...), the same in int32, (batch, 2, ...).

    `rest` is the logarithm of the sum of the exponentials of all other logits, and how many classes there are.
    """
    import torch

    classes = logits.shape[1]
    k = min(k, classes)
    values, places = logits.topk(k, dim=1)
    others = logits.scatter(1, places, float("-inf"))
    rest = others.logsumexp(dim=1, keepdim=True)
    count = torch.full_like(rest, classes)
    return values, places.to(torch.int32), torch.cat([rest, count], dim=1)


def filled(values: Tensor, places: Tensor, rest: Tensor) -> Tensor:
    """Logits again, (batch, classes, ...): the kept ones exact, each of the others an equal part of what they weigh.

    At temperature 1 the probabilities of the kept classes are exact; at others they are near.
    """
    import math

    import torch

    classes = int(rest[:, 1].max())
    others = classes - values.shape[1]
    # Where nothing was left out, the value is never used.
    each = rest[:, :1] - math.log(max(others, 1))
    whole = each.expand(-1, classes, *each.shape[2:]).clone()
    return whole.scatter(1, places.to(torch.int64), values)
