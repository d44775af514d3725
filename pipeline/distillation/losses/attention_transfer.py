"""Attention transfer: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from pipeline.distillation.losses.feature_loss import MAPS, FeatureLoss, FeaturePair
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class AttentionTransfer(FeatureLoss):
    """mean over samples of |q_s / |q_s| - q_t / |q_t||^2, q the squares of (channels, h, w) averaged over channels.

    Equation 2 with p = 2, its norm squared: the norm itself has no gradient where student and teacher agree. Between 0
    and 2 whatever the size of the map: multiply the weight where a recipe elsewhere divides by height times width.
    Maps of different sizes: the larger q is averaged down. Nothing is learned, and channels may differ.
    """

    formula: ClassVar[str] = "mean_i |q_s / |q_s| - q_t / |q_t||^2, q = mean_c F_c^2"
    paper: ClassVar[str] = "Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, arXiv 1612.03928"

    name: Literal["attention_transfer"] = "attention_transfer"

    def of_pair(self, pair: FeaturePair, part: nn.Module, seen: Seen) -> Tensor:
        """Scalar."""
        from torch.nn.functional import normalize

        from pipeline.distillation.adapters import same_size

        del part, seen
        pair.check_same_kind(MAPS)
        energies = (found.square().mean(1, keepdim=True) for found in (pair.student, pair.teacher))
        pair = same_size(pair.with_tensors(*energies))
        student, teacher = (normalize(found.flatten(1)) for found in (pair.student, pair.teacher))  # (batch, h * w)
        return (student - teacher).square().sum(1).mean()
