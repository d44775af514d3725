"""What the terms of a loss may look at: one batch, after teacher and student have run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tasks.task import Task


@dataclass(frozen=True)
class Seen:
    """One batch. Tensors are batch first; the teacher's carry no gradient.

    Under mixed precision all floating tensors have been widened to float32 before a term sees them.
    """

    student: Mapping[str, Tensor]
    """Outputs by the task's names."""
    teacher: Mapping[str, Tensor]
    """As the student's; empty where no term asks for them."""
    student_features: Mapping[str, Tensor]
    """What the layers that `DistillationLoss.student_layers` names gave, by module path."""
    teacher_features: Mapping[str, Tensor]
    labels: Tensor
    rows: Tensor
    """(batch,) int64: which samples of the training split these are, counted from 0."""
    samples: int
    """In the training split."""
    task: Task
    mask: Tensor | None = None
    """(batch, length): 1 where the sequence is real, 0 where it is padding; None without padding."""
    class_weights: Tensor | None = None
    """(classes,), for the supervised loss."""

    def logits(self) -> tuple[Tensor, Tensor, Tensor]:
        """(student, teacher, labels) of the decisions that count, flat: (rows, classes) twice and (rows,).

        Left out are padding, and decisions without a label.
        """
        labels = self.task.label_rows(self.labels)
        student, teacher = self.task.logit_rows(self.student), self.task.logit_rows(self.teacher)
        counted = labels >= 0
        if self.mask is not None and self.mask.numel() == len(labels):
            counted = counted & (self.mask.reshape(-1) > 0)
        if bool(counted.all()):
            return student, teacher, labels
        return student[counted], teacher[counted], labels[counted]
