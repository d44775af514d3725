"""The contract of a distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tasks import Task


class DistillationLoss(BaseModel, ABC):
    """One term. A subclass is final and frozen; its fields are its `[[distill.losses]]` entry, `name` among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    formula: ClassVar[str]
    """For the report, in plain text."""

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor, task: Task) -> Tensor:
        """Scalar, averaged over the batch; student and teacher outputs batch first, the teacher's without gradient."""
