"""Hints: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from pipeline.distillation.losses.feature_loss import MAPS, SEQUENCES, VECTORS, FeatureLoss, FeaturePair
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class Hint(FeatureLoss):
    """mean((r(student) - teacher)^2) over everything but padding, r a learned regressor (equation 3, without its half).

    r is a 1x1 convolution or a linear map, with a bias and nothing after it; the paper's is a convolution as large as
    it takes to bring the student's map to the teacher's size, where here the larger map is averaged down. For equal
    shapes it is learned too: channel i of one network means nothing to channel i of another.
    """

    formula: ClassVar[str] = "mean((r(F_s) - F_t)^2), r learned"
    paper: ClassVar[str] = "Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv 1412.6550"

    name: Literal["hint"] = "hint"
    adapter: Literal["learned", "none"] = "learned"
    """`none` holds the features themselves against each other; their channels must be equally many."""

    def part(self, pair: FeaturePair, seen: Seen) -> nn.Module | None:
        """The regressor; raises RecipeError for shapes that nothing bridges."""
        from pipeline.distillation.adapters import adapter, check_same_channels

        del seen
        if self.adapter == "none":
            check_same_channels(pair)
            return None
        return adapter(pair, bias=True)

    def of_pair(self, pair: FeaturePair, part: nn.Module, seen: Seen) -> Tensor:
        """Scalar."""
        from pipeline.distillation.adapters import check_same_channels, mean_over_batch, same_size

        del seen
        pair.check_same_kind(VECTORS, SEQUENCES, MAPS)
        pair = same_size(pair)
        pair = pair.with_tensors(part(pair.student), pair.teacher)
        check_same_channels(pair)
        return mean_over_batch((pair.student - pair.teacher).square(), pair.mask)
