"""Contrastive distillation: Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import Field

from pipeline.distillation.losses.feature_loss import MAPS, SEQUENCES, VECTORS, FeatureLoss, FeaturePair
from pipeline.distillation.seen import Seen
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

_PAPERS_NEGATIVES = 16384


@final
class CRD(FeatureLoss):
    """mean over samples of -log h(own) - sum over K negatives of log(1 - h(negative)), student to teacher and back.

    h = e / (e + K Z / samples), e = exp(cosine / temperature) of the anchor's embedding and one that a memory holds of
    the other network; the only positive is the sample itself. This is equation 18's critic as its authors train it,
    not InfoNCE: noise contrastive estimation, whose constant Z is estimated on the first batch and then kept, so that
    a sample's loss does not hang on how well its negatives happen to be told apart.

    Embeddings are a learned linear head on a map averaged over height and width, a sequence averaged over its real
    tokens, or a vector. The K negatives are drawn without repetition, once for the batch: of each sample the same in
    expectation as draws of its own, at a memory of K and not batch * K rows. The memory takes samples * dim floats of
    each network. Across processes it is each one's own: the same where all see the whole batch and draw alike.
    """

    formula: ClassVar[str] = "-log h(own) - sum_k log(1 - h(negative_k)), h = e / (e + K Z / N), e = exp(cos / T)"
    paper: ClassVar[str] = "Tian et al., Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699"
    over_samples: ClassVar[bool] = False

    name: Literal["crd"] = "crd"
    dim: Annotated[int, Field(ge=1)] = 128
    negatives: Annotated[int, Field(ge=1)] | None = None
    """K; left out: the paper's 16384, or every other sample where there are fewer."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share that a memory keeps of itself when its sample is seen again."""

    def part(self, pair: FeaturePair, seen: Seen) -> nn.Module | None:
        """Heads and memories; raises RecipeError where there are fewer other samples than negatives."""
        from pipeline.distillation.adapters import embedding
        from pipeline.distillation.losses.memory_bank import MemoryBank

        pair.check_each(VECTORS, SEQUENCES, MAPS)
        self._count(seen)
        student, teacher = (embedding(found, pair.mask).shape[1] for found in (pair.student, pair.teacher))
        bank = MemoryBank(student, teacher, seen.samples, self.dim, pair.student.dtype)
        return bank.to(pair.student.device)

    def of_pair(self, pair: FeaturePair, part: nn.Module, seen: Seen) -> Tensor:
        """Scalar; in training mode it moves the memory."""
        from pipeline.distillation.adapters import embedding
        from pipeline.distillation.losses.memory_bank import MemoryBank

        pair.check_each(VECTORS, SEQUENCES, MAPS)
        if not isinstance(part, MemoryBank):
            raise TypeError("CRD.value wants what CRD.learned made")
        student, teacher = (embedding(found, pair.mask) for found in (pair.student, pair.teacher))
        return part.loss(student, teacher, seen.rows, self._count(seen), self.temperature, self.momentum)

    def _count(self, seen: Seen) -> int:
        others = seen.samples - 1
        count = min(_PAPERS_NEGATIVES, others) if self.negatives is None else self.negatives
        if not 1 <= count <= others:
            raise RecipeError(
                f"[distill] crd: negatives = {count}, and the training split has {others} other samples to draw from; "
                "lower negatives, or leave it out"
            )
        return count
