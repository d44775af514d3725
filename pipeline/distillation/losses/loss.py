"""The contract of a distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn

LayerName = Annotated[str, Field(min_length=1)]
"""A module path such as `stages.2.conv1`, as `network.named_modules()` gives it."""


class LayerPair(BaseModel):
    """A layer of the student and the layer of the teacher that it is held against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: LayerName
    teacher: LayerName


class TermSchedule(BaseModel):
    """How a term's weight changes over the training: up in a line, then held, then down to `decay_to` of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warm_up_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_to: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the weight that is left at the end."""


class DistillationLoss(BaseModel, ABC):
    """One term. A subclass is final and frozen; its fields are its `[[distill.losses]]` entry, `name` among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    formula: ClassVar[str]
    """For the report, in plain text."""
    paper: ClassVar[str]
    """Authors, title, where: the formula's source."""
    trains_outputs: ClassVar[bool]
    """Whether it reaches the network's outputs: a recipe of other terms alone would leave the head untrained."""
    needs_teacher: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    """Whether it takes only tasks that have logits over classes."""
    over_samples: ClassVar[bool] = True
    """Whether it is a plain mean over samples: halves of a batch, each on its own device, then average to the whole.

    False for what relates samples to each other, or divides by a count that depends on the batch.
    """

    name: str
    """Its key in `LOSSES`; a subclass narrows it to that."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    schedule: TermSchedule = TermSchedule()

    def student_layers(self) -> tuple[LayerName, ...]:
        """Module paths whose outputs it reads from the student."""
        return ()

    def teacher_layers(self) -> tuple[LayerName, ...]:
        """Module paths whose outputs it reads from the teacher."""
        return ()

    def learned(self, seen: Seen) -> nn.Module | None:  # noqa: ARG002 losses with learned parts use it
        """What is trained along with the student, built from the shapes of a first batch, and thrown away after.

        Raises RecipeError for shapes that nothing bridges. Buffers of the module are the loss's memory.
        """
        return None

    @abstractmethod
    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        """Scalar: the formula, without weight and schedule."""
