"""The labels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class Labels(DistillationLoss):
    """The task's supervised loss, for any task: what terms on features, which leave the head untrained, stand beside.

    Alone it is a student without a teacher.
    """

    formula: ClassVar[str] = "L_task"
    paper: ClassVar[str] = "none: the task's own supervised loss"
    trains_outputs: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    name: Literal["labels"] = "labels"

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        del learned
        return seen.task.supervised_loss(seen.student, seen.labels, seen.class_weights)
