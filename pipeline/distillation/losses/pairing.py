"""Whether what the student and the teacher gave can be held against each other, and the decisions that count."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.distillation.seen import Seen

_SAME_CLASSES = (
    "train the teacher on this recipe's classes and sizes, or take a loss on features, such as hint, beside labels"
)


def paired(student: Tensor, teacher: Tensor, what: str, advice: str = "compare what has one shape in both") -> None:
    """Nothing where both have one shape; raises RecipeError with `what` they are, both shapes and `advice`."""
    if student.shape != teacher.shape:
        raise RecipeError(
            f"[[distill.losses]] {what}: shape {tuple(student.shape)} of the student does not pair with "
            f"{tuple(teacher.shape)} of the teacher, batch first; {advice}"
        )


def paired_rows(seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """`seen.logits()`: student and teacher (rows, classes), labels (rows,); raises RecipeError where they differ."""
    unlike = [name for name in seen.task.outputs if seen.student[name].shape != seen.teacher[name].shape]
    # A task may have outputs besides its logits, and those need not agree.
    if unlike and seen.task.logit_rows(seen.student).shape != seen.task.logit_rows(seen.teacher).shape:
        paired(seen.student[unlike[0]], seen.teacher[unlike[0]], f"output '{unlike[0]}'", _SAME_CLASSES)
    return seen.logits()


def student_rows(seen: Seen) -> tuple[Tensor, Tensor]:
    """The student's logits (rows, classes) and the labels (rows,) of the decisions that count, without a teacher."""
    student, _, labels = replace(seen, teacher=seen.student).logits()
    return student, labels
