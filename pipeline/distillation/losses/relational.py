"""Relational distillation: Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, final

from pydantic import Field, model_validator

from pipeline.distillation.losses.feature_loss import MAPS, SEQUENCES, VECTORS, FeatureLoss, FeaturePair
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@final
class RKD(FeatureLoss):
    """distance_weight * mean huber(d_s, d_t) + angle_weight * mean huber(cos_s, cos_t) over embeddings of a batch.

    d_ij is the distance of two samples divided by the mean of all that are not zero (equations 6 to 8); cos_ijk is
    that of the angle at sample j (equations 9 to 11). Means are over all b^2 and all b^3, of which those that join a
    sample, or its copy, to itself are zero; so a repeated batch has the same loss. Embeddings are maps averaged over
    height and width, sequences averaged over their real tokens, or vectors; the two networks' may differ in length.
    Memory grows with b^3.
    """

    formula: ClassVar[str] = "w_d mean_ij huber(d_s, d_t) + w_a mean_ijk huber(cos_s, cos_t)"
    paper: ClassVar[str] = "Park et al., Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068"
    over_samples: ClassVar[bool] = False

    name: Literal["rkd"] = "rkd"
    distance_weight: Share = 25.0
    angle_weight: Share = 50.0

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.distance_weight and not self.angle_weight:
            raise ValueError("distance_weight and angle_weight are both 0, so nothing is asked for; raise one")
        return self

    def of_pair(self, pair: FeaturePair, part: nn.Module, seen: Seen) -> Tensor:
        """Scalar."""
        from torch.nn.functional import smooth_l1_loss

        from pipeline.distillation.adapters import embedding

        del part, seen
        pair.check_each(VECTORS, SEQUENCES, MAPS)
        student, teacher = (embedding(found, pair.mask) for found in (pair.student, pair.teacher))
        total = student.new_zeros(())
        if self.distance_weight:
            total = total + self.distance_weight * smooth_l1_loss(_distances(student), _distances(teacher))
        if self.angle_weight:
            total = total + self.angle_weight * smooth_l1_loss(_angles(student), _angles(teacher))
        return total


def _distances(rows: Tensor) -> Tensor:
    """(batch, batch), in units of the mean distance of samples that differ."""
    import torch

    # Not by way of products: they leave a small distance between equal rows, and it has a gradient.
    found = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    mean = found.sum() / (found > 0).sum().clamp(min=1)
    return found / mean.where(mean > 0, 1)


def _angles(rows: Tensor) -> Tensor:
    """(batch, batch, batch): [j, i, k] is the cosine at j between i and k."""
    edges = rows.unsqueeze(0) - rows.unsqueeze(1)  # (batch, batch, channels): from j to i
    squares = edges.square().sum(2, keepdim=True)
    # The root's gradient at zero is infinite: an edge of no length keeps length zero, and none.
    edges = edges / squares.where(squares > 0, 1).sqrt()
    return edges @ edges.mT
