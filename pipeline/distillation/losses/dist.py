"""Relations instead of probabilities: how the teacher ranks classes in a sample, and samples in a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, final

from pydantic import Field, model_validator

from pipeline.distillation.losses.kd import Temperature
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.pairing import paired_rows
from pipeline.distillation.losses.standardized_kd import z_scores
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class DIST(DistillationLoss):
    """T^2 * (beta * inter + gamma * intra), to stand beside `labels`, as in the paper.

    inter is 1 - Pearson correlation of a row's class probabilities, averaged over rows; intra that of a class's
    probabilities over the batch, averaged over classes. Probabilities are softmax(logits / T). The factor T^2 is that
    of the authors' code, with which their figures were measured; the paper's equations have none. A row or class whose
    probabilities are all equal correlates with nothing: it counts 1 and gives no gradient. Between two classes, and so
    in multi-label tasks, only intra has a gradient: a row's correlation is 1 or -1.
    """

    formula: ClassVar[str] = "T^2 * (beta * (1 - corr over classes) + gamma * (1 - corr over the batch))"
    paper: ClassVar[str] = (
        "Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher. NeurIPS 2022, arXiv 2205.10536"
    )
    trains_outputs: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True
    over_samples: ClassVar[bool] = False

    name: Literal["dist"] = "dist"
    temperature: Temperature = 1.0
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    """Weight of the relations between classes (inter)."""
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    """Weight of the relations between samples (intra)."""

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.beta == 0 and self.gamma == 0:
            raise ValueError("beta and gamma are both 0, so nothing is left of dist; raise one, or take the loss out")
        return self

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        del learned
        student, teacher, _ = paired_rows(seen)
        if len(student) == 0:
            return student.sum()  # 0: a batch may be all padding
        found, wanted = ((logits / self.temperature).softmax(dim=1) for logits in (student, teacher))
        inter = 1 - _correlations(found, wanted, dim=1).mean()
        intra = 1 - _correlations(found, wanted, dim=0).mean()
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)


def _correlations(found: Tensor, wanted: Tensor, dim: int) -> Tensor:
    """Pearson's, along the dim; 0 where one of the two does not vary."""
    return (z_scores(found, dim) * z_scores(wanted, dim)).mean(dim)
