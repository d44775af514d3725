"""What the losses on intermediate representations share: pairs of layers, one of the student and one of the teacher."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from pipeline.distillation.losses.loss import DistillationLoss, LayerName, LayerPair
from pipeline.distillation.seen import Seen
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUT = "@input"
"""Behind a layer's name: the first input that it takes, in place of what it gives."""
PROJECTION = "@projection"
"""Behind a layer's name: what it gives, of a layer that is no fused attention."""

VECTORS, SEQUENCES, MAPS = 2, 3, 4
_KINDS = {
    VECTORS: "(batch, channels)",
    SEQUENCES: "(batch, length, channels)",
    MAPS: "(batch, channels, height, width)",
}


@dataclass(frozen=True)
class FeaturePair:
    """What a layer of the student and its partner of the teacher gave for one batch."""

    loss: str
    student_name: str
    teacher_name: str
    student: Tensor
    teacher: Tensor
    mask: Tensor | None = None
    """(batch, length): 1 where a sequence is real; looked at for sequences alone."""

    def with_tensors(self, student: Tensor, teacher: Tensor) -> FeaturePair:
        """The same layers, and what has become of what they gave."""
        return replace(self, student=student, teacher=teacher)

    def refused(self, why: str) -> RecipeError:
        """With both layers, what they gave, and the reason."""
        return RecipeError(
            f"[distill] {self.loss}: student layer '{self.student_name}' gives {tuple(self.student.shape)}, "
            f"teacher layer '{self.teacher_name}' gives {tuple(self.teacher.shape)}; {why}"
        )

    def check_same_kind(self, *ranks: int) -> None:
        """Raises RecipeError unless both have one of these ranks, the same, and batch and length are equal."""
        student, teacher = self.student.shape, self.teacher.shape
        if len(student) != len(teacher):
            raise self.refused(f"nothing bridges these; name two layers that both give {_kinds(ranks)}")
        self.check_each(*ranks)
        if len(student) == SEQUENCES and student[1] != teacher[1]:
            raise self.refused("sequences of unequal length cannot be held against each other; name other layers")

    def check_each(self, *ranks: int) -> None:
        """Raises RecipeError unless each has one of these ranks, the batches are equal, and the mask fits."""
        student, teacher = self.student.shape, self.teacher.shape
        if len(student) not in ranks or len(teacher) not in ranks:
            raise self.refused(f"name layers that give {_kinds(ranks)}")
        if student[0] != teacher[0]:
            raise self.refused("name layers whose first axis is the batch")
        for shape in (student, teacher):
            if len(shape) == SEQUENCES and self.mask is not None and self.mask.shape != shape[:2]:
                raise self.refused(
                    f"the padding's mask is {tuple(self.mask.shape)}, so name layers that give a vector for each token"
                )


def _kinds(ranks: Sequence[int]) -> str:
    return " or ".join(_KINDS[rank] for rank in ranks)


class FeatureLoss(DistillationLoss):
    """The mean of one formula over pairs of layers; it leaves the head untrained, so another term goes beside it."""

    trains_outputs: ClassVar[bool] = False

    name: str
    pairs: Annotated[tuple[LayerPair, ...], Field(min_length=1)]

    def student_layers(self) -> tuple[LayerName, ...]:
        """Each once, in the recipe's order."""
        return tuple(dict.fromkeys(pair.student for pair in self.pairs))

    def teacher_layers(self) -> tuple[LayerName, ...]:
        """Each once, in the recipe's order."""
        return tuple(dict.fromkeys(pair.teacher for pair in self.pairs))

    def learned(self, seen: Seen) -> nn.Module | None:
        """What each pair learns, a list in the order of the pairs; None where no pair learns anything."""
        from torch import nn

        parts = [self.part(pair, seen) for pair in self.feature_pairs(seen)]
        if all(part is None for part in parts):
            return None
        return nn.ModuleList(nn.Identity() if part is None else part for part in parts)

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        """Scalar, the mean over pairs; raises RecipeError for shapes that cannot be compared."""
        import torch
        from torch import nn

        pairs = self.feature_pairs(seen)
        parts = list(learned) if isinstance(learned, nn.ModuleList) else [nn.Identity() for _ in pairs]
        values = [self.of_pair(pair, part, seen) for pair, part in zip(pairs, parts, strict=True)]
        return torch.stack(values).mean()

    def feature_pairs(self, seen: Seen) -> list[FeaturePair]:
        """What is held against each other: the pairs, or the first output where a loss may do without pairs."""
        if not self.pairs:
            first = seen.task.outputs[0]
            return [FeaturePair(self.name, first, first, seen.student[first], seen.teacher[first], seen.mask)]
        students, teachers = seen.student_features, seen.teacher_features
        return [
            FeaturePair(
                self.name, pair.student, pair.teacher, students[pair.student], teachers[pair.teacher], seen.mask
            )
            for pair in self.pairs
        ]

    def part(self, pair: FeaturePair, seen: Seen) -> nn.Module | None:  # noqa: ARG002 losses with learned parts use them
        """What this pair learns; raises RecipeError for shapes that nothing bridges."""
        return None

    @abstractmethod
    def of_pair(self, pair: FeaturePair, part: nn.Module, seen: Seen) -> Tensor:
        """Scalar, averaged over the batch; `part` is an identity where nothing is learned."""
