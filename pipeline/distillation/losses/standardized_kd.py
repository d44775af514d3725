"""Knowledge distillation between logits of mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from pipeline.distillation.losses.kd import Share, Temperature, beside_labels, soft_divergence
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.seen import Seen
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class StandardizedKD(DistillationLoss):
    """alpha * supervised loss + (1 - alpha) * T^2 * KL(softmax(z(teacher) / T) || softmax(z(student) / T)).

    z subtracts each row's mean over classes and divides by its standard deviation (of K classes, not K - 1), so the
    student learns the teacher's relations between classes and not the size of its logits; a row of equal logits has
    z = 0 and gives no gradient. The paper weighs both parts freely, lambda_CE * CE + lambda_KD * T^2 * KL:
    `weight` = lambda_CE + lambda_KD and `alpha` = lambda_CE / `weight`, so its 0.1 and 9 are 9.1 and 0.011.
    Of two classes, and so in multi-label tasks, z leaves only which logit is larger: RecipeError.
    """

    formula: ClassVar[str] = "alpha * L_task + (1 - alpha) * T^2 * KL(z(teacher) || z(student)), z = (x - mean) / std"
    paper: ClassVar[str] = (
        "Sun, Ren, Li, Wang, Cao: Logit Standardization in Knowledge Distillation. CVPR 2024, arXiv 2403.01427"
    )
    trains_outputs: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True

    name: Literal["standardized_kd"] = "standardized_kd"
    temperature: Temperature = 2.0
    """The base temperature, in standard deviations of the logits."""
    alpha: Share = 0.1
    """Weight of the labels; 1 - alpha is the teacher's."""

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        del learned
        return beside_labels(seen, self.alpha, self._soft)

    def _soft(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape[1] < 3:
            raise RecipeError(
                f"[[distill.losses]] standardized_kd: of {student.shape[1]} classes, standardized logits keep only "
                "which is larger, and have no gradient; take kd"
            )
        return soft_divergence(z_scores(student, dim=1), z_scores(teacher, dim=1), self.temperature)


def z_scores(values: Tensor, dim: int) -> Tensor:
    """(values - mean) / standard deviation along the dim; 0, without gradient, where they are equal.

    Equal means: apart by no more than rounding, a few times the last place of the largest.
    """
    import torch

    # z does not depend on the scale, and at a scale of 1 no square over- or underflows.
    finite = torch.finfo(values.dtype)
    scaled = values / values.detach().abs().amax(dim, keepdim=True).clamp_min(finite.tiny)
    centred = scaled - scaled.mean(dim, keepdim=True)
    variance = centred.square().mean(dim, keepdim=True)
    # Written so that NaN varies: a diverged network must not look like a constant one.
    varies = ~(variance <= (8 * finite.eps) ** 2)
    # The root of 0 has an infinite derivative, which would be NaN even where it is not taken.
    return torch.where(varies, centred / torch.where(varies, variance, 1.0).sqrt(), 0.0)
