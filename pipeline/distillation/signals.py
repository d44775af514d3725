"""What the student is shown of its teacher: where it comes from is the source's own affair, live or from a cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.distillation.views import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Signals:
    """For one batch, without gradient."""

    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    """By the task's names; of several teachers, combined."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """By module path of the first teacher."""


class TeacherSignals(ABC):
    """A source of signals for the training split."""

    @abstractmethod
    def of(self, batch: Batch, rows: NDArray[np.int64], view: int) -> Signals:
        """For a batch that holds these rows of the split in this view."""

    @abstractmethod
    def in_words(self) -> str:
        """For the report: where the signals came from, and what they cost."""


class NoTeacher(TeacherSignals):
    """For a training on labels alone."""

    def of(self, batch: Batch, rows: NDArray[np.int64], view: int) -> Signals:
        del batch, rows, view
        return Signals()

    def in_words(self) -> str:
        return "none"
