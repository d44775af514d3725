"""Knowledge distillation in two parts: how sure the teacher is of the target class, and how it ranks the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, final

from pydantic import Field, model_validator

from pipeline.distillation.losses.kd import Temperature, soft_divergence
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.pairing import paired_rows
from pipeline.distillation.seen import Seen
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class DKD(DistillationLoss):
    """T^2 * (alpha * TCKD + beta * NCKD), to stand beside `labels`, as in the paper.

    TCKD is the KL divergence of (target, all others) as two classes, NCKD that of the softmax over the others alone,
    both at temperature T and with the authors' factor T^2. With two classes, and so for multi-label tasks, NCKD is 0.
    The paper warms up over 20 of 240 epochs: `schedule = { warm_up_epochs = 20 }`.
    """

    formula: ClassVar[str] = "T^2 * (alpha * KL(target class or not) + beta * KL(among the other classes))"
    paper: ClassVar[str] = "Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation. CVPR 2022, arXiv 2203.08679"
    trains_outputs: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True

    name: Literal["dkd"] = "dkd"
    temperature: Temperature = 4.0
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Weight of the target class (TCKD)."""
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0
    """Weight of the other classes (NCKD)."""

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta are both 0, so nothing is left of dkd; raise one, or take the loss out")
        return self

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        del learned
        student, teacher, labels = paired_rows(seen)
        if student.shape[1] < 2:
            raise RecipeError("[[distill.losses]] dkd: the logits have one class and it takes two or more; take mimic")
        found, other_found = _split(student, labels, self.temperature)
        wanted, other_wanted = _split(teacher, labels, self.temperature)
        target = soft_divergence(found, wanted, 1.0) * self.temperature**2
        return self.alpha * target + self.beta * soft_divergence(other_found, other_wanted, self.temperature)


def _split(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(rows, 2) logits at T of target against the rest, whose softmax is their probability; (rows, classes - 1)."""
    import torch

    # Column j of the others is class j, or j + 1 from the target on.
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, columns + (columns >= labels[:, None]))
    target = logits.gather(1, labels[:, None]) / temperature
    return torch.cat([target, (others / temperature).logsumexp(dim=1, keepdim=True)], dim=1), others
