"""Soft and hard labels: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import Field

from pipeline.distillation.loss import DistillationLoss

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tasks import Task


@final
class KD(DistillationLoss):
    """alpha * CE(student, labels) + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    T^2 keeps the soft term's gradients at the size of the hard term's, whatever the temperature (section 2).
    """

    formula: ClassVar[str] = "alpha * CE + (1 - alpha) * T^2 * KL"

    name: Literal["kd"] = "kd"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Weight of the labels; 1 - alpha is the teacher's."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor, task: Task) -> Tensor:
        from torch.nn.functional import kl_div, log_softmax

        soft = kl_div(
            log_softmax(student / self.temperature, dim=1),
            log_softmax(teacher / self.temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        hard = task.supervised_loss(student, labels)
        return self.alpha * hard + (1 - self.alpha) * self.temperature**2 * soft
