"""What soft labels give without a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import Field

from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.pairing import student_rows
from pipeline.distillation.seen import Seen
from pipeline.tasks.classification import LOGITS
from pipeline.tasks.multi_label import MultiLabel

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class LabelSmoothing(DistillationLoss):
    """Cross-entropy with (1 - smoothing) * label + smoothing * (1 / classes): the baseline that has no teacher.

    Averaged over decisions as in `kd`; a class of a multi-label task is a decision between two. Class weights multiply
    each class's part, and the sum is divided by the weights of the labels, so that 0 is the supervised loss.
    """

    formula: ClassVar[str] = "CE((1 - smoothing) * label + smoothing / classes, student)"
    paper: ClassVar[str] = (
        "Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer Vision. "
        "CVPR 2016, arXiv 1512.00567, section 7"
    )
    trains_outputs: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = True

    name: Literal["label_smoothing"] = "label_smoothing"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the label that is spread over all classes."""

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        del learned
        from torch.nn.functional import cross_entropy

        if isinstance(seen.task, MultiLabel):
            # Its weights are of the column that a decision is about, not of the decision's two classes.
            labels = seen.labels.to(seen.student[LOGITS].dtype)
            softened = labels * (1 - self.smoothing) + self.smoothing / 2
            return seen.task.supervised_loss(seen.student, softened, seen.class_weights)
        logits, labels = student_rows(seen)
        if len(labels) == 0:
            return logits.sum()  # 0: a batch may be all padding
        return cross_entropy(logits, labels, seen.class_weights, label_smoothing=self.smoothing)
