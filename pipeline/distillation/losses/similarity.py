"""Similarity-preserving distillation: Tung, Mori, ICCV 2019, arXiv 1907.09682."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from pipeline.distillation.losses.feature_loss import MAPS, SEQUENCES, VECTORS, FeatureLoss, FeaturePair
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class Similarity(FeatureLoss):
    """|G_s - G_t|^2 / b^2, G the (b, b) products of a batch's flattened features, each row divided by its norm.

    Its scale depends on the batch: rows have norm 1 however many samples there are, so the sum grows with b, and the
    whole falls with 1 / b (a batch repeated k times has the loss divided by k). A weight goes with a batch size; the
    paper's is 3000 at 128. Layers of student and teacher may have any shapes; padding of a sequence counts as zero.
    """

    formula: ClassVar[str] = "|G_s - G_t|^2 / b^2, G = rows of Q Q^T divided by their norm"
    paper: ClassVar[str] = "Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, arXiv 1907.09682"
    over_samples: ClassVar[bool] = False

    name: Literal["similarity"] = "similarity"

    def of_pair(self, pair: FeaturePair, part: nn.Module, seen: Seen) -> Tensor:
        """Scalar."""
        from torch.nn.functional import normalize

        from pipeline.distillation.adapters import flat

        del part, seen
        pair.check_each(VECTORS, SEQUENCES, MAPS)
        rows = (flat(found, pair.mask) for found in (pair.student, pair.teacher))
        student, teacher = (normalize(row @ row.T) for row in rows)  # (batch, batch)
        return (student - teacher).square().mean()
