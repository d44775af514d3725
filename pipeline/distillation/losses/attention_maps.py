"""Attention maps of a transformer: Jiao et al., "TinyBERT", Findings of EMNLP 2020, arXiv 1909.10351."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.distillation.losses.feature_loss import PROJECTION, SEQUENCES, FeaturePair
from pipeline.distillation.losses.loss import DistillationLoss, LayerName
from pipeline.distillation.seen import Seen
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

Heads = Annotated[int, Field(ge=1)]


class AttentionPair(BaseModel):
    """The layers that give queries and keys, (batch, length, heads * head size), and how many heads share them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student_query: LayerName
    student_key: LayerName
    student_heads: Heads
    teacher_query: LayerName
    teacher_key: LayerName
    teacher_heads: Heads


@final
class AttentionMaps(DistillationLoss):
    """mean over samples, heads and pairs of real tokens of (A_s - A_t)^2, A = Q K^T / sqrt(head size) (equation 7).

    A is recomputed from what the query and key layers gave, since fused attention never holds it; the scores before
    the softmax, as in the paper, or after it. What a network adds to its scores (a causal mask, a bias of positions)
    is not seen. Layers that rotate queries or keys do so afterwards, and are not seen either.
    """

    formula: ClassVar[str] = "mean((A_s - A_t)^2), A = Q K^T / sqrt(d)"
    paper: ClassVar[str] = "Jiao et al., TinyBERT, Findings of EMNLP 2020, arXiv 1909.10351"
    trains_outputs: ClassVar[bool] = False

    name: Literal["attention_maps"] = "attention_maps"
    pairs: Annotated[tuple[AttentionPair, ...], Field(min_length=1)]
    softmax: bool = False
    """Compare what the softmax over keys makes of the scores."""
    average_heads: bool = False
    """Compare the mean over heads, which networks of different head counts both have."""

    @model_validator(mode="after")
    def _heads_pair(self) -> Self:
        for pair in self.pairs:
            if pair.student_heads != pair.teacher_heads and not self.average_heads:
                raise ValueError(
                    f"'{pair.student_query}' has {pair.student_heads} heads and '{pair.teacher_query}' has "
                    f"{pair.teacher_heads}, so no head has a partner; write average_heads = true to compare their means"
                )
        return self

    def student_layers(self) -> tuple[LayerName, ...]:
        """Queries and keys, marked as projections: fused attention is refused where hooks are set."""
        return _marked(name for pair in self.pairs for name in (pair.student_query, pair.student_key))

    def teacher_layers(self) -> tuple[LayerName, ...]:
        """As the student's."""
        return _marked(name for pair in self.pairs for name in (pair.teacher_query, pair.teacher_key))

    def value(self, seen: Seen, learned: nn.Module | None) -> Tensor:
        """Scalar; raises RecipeError for shapes that cannot be compared."""
        import torch

        del learned
        return torch.stack([self._of_pair(pair, seen) for pair in self.pairs]).mean()

    def _of_pair(self, pair: AttentionPair, seen: Seen) -> Tensor:
        queries = self._found(pair.student_query, pair.teacher_query, seen)
        keys = self._found(pair.student_key, pair.teacher_key, seen)
        student = self._map(queries.student, keys.student, pair.student_heads, pair.student_query, seen.mask)
        teacher = self._map(queries.teacher, keys.teacher, pair.teacher_heads, pair.teacher_query, seen.mask)
        squares = (student - teacher).square().mean(1)  # (batch, queries, keys)
        if seen.mask is None:
            return squares.mean()
        real = seen.mask > 0
        both = real.unsqueeze(2) & real.unsqueeze(1)
        return (squares.where(both, 0).sum((1, 2)) / both.sum((1, 2)).clamp(min=1)).mean()

    def _found(self, student: str, teacher: str, seen: Seen) -> FeaturePair:
        found = seen.student_features[student + PROJECTION], seen.teacher_features[teacher + PROJECTION]
        pair = FeaturePair(self.name, student, teacher, *found, seen.mask)
        pair.check_same_kind(SEQUENCES)
        return pair

    def _map(self, queries: Tensor, keys: Tensor, heads: int, where: str, mask: Tensor | None) -> Tensor:
        """(batch, heads, queries, keys); one head where they are averaged."""
        import torch

        channels = queries.shape[2]
        if channels != keys.shape[2] or channels % heads:
            raise RecipeError(
                f"[distill] {self.name}: queries of layer '{where}' have {channels} channels, its keys "
                f"{keys.shape[2]}; both must be the same multiple of its {heads} heads"
            )
        split = [found.reshape(*found.shape[:2], heads, -1).transpose(1, 2) for found in (queries, keys)]
        found: Tensor = split[0] @ split[1].mT / math.sqrt(channels // heads)
        if self.softmax:
            if mask is not None:
                # Not -inf: of a sequence that is all padding the softmax would be NaN.
                found = found.masked_fill((mask <= 0)[:, None, None, :], torch.finfo(found.dtype).min)
            found = found.softmax(-1)
        return found.mean(1, keepdim=True) if self.average_heads else found


def _marked(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name + PROJECTION for name in names))
