"""Soft and hard labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import Field

from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.pairing import paired_rows
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn

Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""What logits are divided by before the softmax: above 1 softens."""
Share = Annotated[float, Field(ge=0, le=1)]


@final
class KD(DistillationLoss):
    """alpha * supervised loss + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    T^2 keeps the soft term's gradients at the size of the hard term's, whatever the temperature (section 2). The
    divergence is averaged over decisions: samples, real tokens (token-level distillation), labelled pixels (pixel-wise
    distillation), or each class of a multi-label sample.
    """

    formula: ClassVar[str] = "alpha * L_task + (1 - alpha) * T^2 * KL(teacher || student)"
    paper: ClassVar[str] = (
        "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. NIPS 2014 workshop, arXiv 1503.02531"
    )
    trains_outputs: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True

    name: Literal["kd"] = "kd"
    temperature: Temperature = 4.0
    alpha: Share = 0.3
    """Weight of the labels; 1 - alpha is the teacher's."""

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        del learned
        return beside_labels(
            seen, self.alpha, lambda student, teacher: soft_divergence(student, teacher, self.temperature)
        )


def beside_labels(seen: Seen, alpha: float, soft: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Scalar alpha * supervised loss + (1 - alpha) * soft(student rows, teacher rows)."""
    # What weighs nothing is not looked at: at alpha = 1 the teacher need not even pair.
    if alpha == 1:
        return seen.task.supervised_loss(seen.student, seen.labels, seen.class_weights)
    student, teacher, _ = paired_rows(seen)
    if alpha == 0:
        return soft(student, teacher)
    hard = seen.task.supervised_loss(seen.student, seen.labels, seen.class_weights)
    return alpha * hard + (1 - alpha) * soft(student, teacher)


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Scalar T^2 * KL(softmax(teacher / T) || softmax(student / T)) of logits (rows, classes), averaged over rows.

    0 where no row is left: a batch may be all padding.
    """
    from torch.nn.functional import kl_div, log_softmax

    found, wanted = log_softmax(student / temperature, dim=1), log_softmax(teacher / temperature, dim=1)
    divergence = kl_div(found, wanted, reduction="sum", log_target=True)
    return temperature**2 * divergence / max(1, len(student))
