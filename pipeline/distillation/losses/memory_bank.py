"""What contrastive distillation learns and remembers. Imports torch: import it inside functions."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus


@final
class MemoryBank(nn.Module):
    """Linear heads of student and teacher, and what each last made of every sample: unit vectors of (samples, dim).

    Heads, memories and the two constants are in the state_dict. Draws come from torch's random state of the CPU.
    """

    student: Tensor
    teacher: Tensor
    log_mean: Tensor

    def __init__(self, student: int, teacher: int, samples: int, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.student_head = nn.Linear(student, dim, dtype=dtype)
        self.teacher_head = nn.Linear(teacher, dim, dtype=dtype)
        self.register_buffer("student", normalize(torch.randn(samples, dim, dtype=dtype)))
        self.register_buffer("teacher", normalize(torch.randn(samples, dim, dtype=dtype)))
        self.register_buffer("log_mean", torch.full((2,), torch.nan, dtype=dtype))

    def loss(
        self, student: Tensor, teacher: Tensor, rows: Tensor, negatives: int, temperature: float, momentum: float
    ) -> Tensor:
        """Scalar, summed over the two directions; student and teacher are (batch, channels), rows (batch,).

        In training mode what was seen then moves the memory.
        """
        student = normalize(self.student_head(student))  # (batch, dim)
        teacher = normalize(self.teacher_head(teacher))
        # One more than asked for: of each sample, one of these may be itself.
        drawn = torch.randperm(len(self.student))[: negatives + 1].to(rows.device)
        other = drawn != rows.unsqueeze(1)  # (batch, negatives + 1)
        total = student.new_zeros(())
        for index, (anchors, memory) in enumerate(((student, self.teacher), (teacher, self.student))):
            positive = (anchors * memory[rows]).sum(1) / temperature  # (batch,)
            negative = anchors @ memory[drawn].T / temperature  # (batch, negatives + 1)
            offset = self._log_mean(index, positive, negative, other) + math.log(negatives)
            missed = softplus(negative - offset).where(other, 0).sum(1) / other.sum(1)
            total = total + (softplus(offset - positive) + negatives * missed).mean()
        if self.training:
            self._remember(student.detach(), teacher.detach(), rows, momentum)
        return total

    @torch.no_grad()
    def _log_mean(self, index: int, positive: Tensor, negative: Tensor, other: Tensor) -> Tensor:
        """Logarithm of the mean of exp(score), of the first batch that is seen: the constant Z divided by samples."""
        if self.log_mean[index].isnan():
            scores = torch.cat([positive, negative[other]])
            self.log_mean[index] = scores.logsumexp(0) - math.log(len(scores))
        return self.log_mean[index].clone()

    @torch.no_grad()
    def _remember(self, student: Tensor, teacher: Tensor, rows: Tensor, momentum: float) -> None:
        for memory, found in ((self.student, student), (self.teacher, teacher)):
            memory[rows] = normalize(momentum * memory[rows] + (1 - momentum) * found)
