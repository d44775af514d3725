"""Hidden states of a transformer: Jiao et al., "TinyBERT", Findings of EMNLP 2020, arXiv 1909.10351."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from pipeline.distillation.losses.feature_loss import SEQUENCES, FeatureLoss, FeaturePair
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class HiddenStates(FeatureLoss):
    """mean((student W - teacher)^2) over the real tokens of each sequence, then over sequences (equation 8).

    W is learned, linear and without bias, for equal widths too. For embeddings the formula is the same (equation 9).
    """

    formula: ClassVar[str] = "mean((H_s W - H_t)^2), W learned"
    paper: ClassVar[str] = "Jiao et al., TinyBERT, Findings of EMNLP 2020, arXiv 1909.10351"

    name: Literal["hidden_states"] = "hidden_states"

    def part(self, pair: FeaturePair, seen: Seen) -> nn.Module | None:
        """W; raises RecipeError for anything but sequences of one length."""
        from pipeline.distillation.adapters import adapter

        del seen
        pair.check_same_kind(SEQUENCES)
        return adapter(pair, bias=False)

    def of_pair(self, pair: FeaturePair, part: nn.Module, seen: Seen) -> Tensor:
        """Scalar."""
        from pipeline.distillation.adapters import mean_over_batch

        del seen
        pair.check_same_kind(SEQUENCES)
        return mean_over_batch((part(pair.student) - pair.teacher).square(), pair.mask)
