"""The teacher's outputs as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.pairing import paired
from pipeline.distillation.seen import Seen
from pipeline.errors import RecipeError
from pipeline.names import unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

_PAIRED = "name the outputs that pair as outputs = [...], or take a loss on features, such as hint"


@final
class Mimic(DistillationLoss):
    """Mean squared error between the networks' outputs: regression, detection heads, logits before the softmax.

    Averaged over all elements of an output, then over the outputs; the paper's is half the sum over classes. An output
    of shape (batch, length, ...) is averaged over the real positions where an input named `mask` says which those are;
    one value a position is (batch, length, 1), since a plain (batch, length) may as well be (batch, classes).
    """

    formula: ClassVar[str] = "mean((student - teacher)^2)"
    paper: ClassVar[str] = "Ba, Caruana: Do Deep Nets Really Need to be Deep? NIPS 2014, arXiv 1312.6184, equation 1"
    trains_outputs: ClassVar[bool] = True

    name: Literal["mimic"] = "mimic"
    outputs: tuple[str, ...] = ()
    """Names of the task's outputs that are compared; empty: all of them."""

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        del learned
        import torch

        names = self.outputs or seen.task.outputs
        return torch.stack([self._of_output(seen, name) for name in names]).mean()

    def _of_output(self, seen: Seen, name: str) -> Tensor:
        from torch.nn.functional import mse_loss

        if name not in seen.task.outputs:
            raise RecipeError(f"[[distill.losses]] mimic: {unknown('output', name, seen.task.outputs)}")
        student, teacher = seen.student[name], seen.teacher[name]
        paired(student, teacher, f"output '{name}'", _PAIRED)
        mask = seen.mask
        if mask is not None and student.ndim > 2 and student.shape[:2] == mask.shape:
            student, teacher = student[mask > 0], teacher[mask > 0]
        return mse_loss(student, teacher, reduction="sum") / max(1, student.numel())
