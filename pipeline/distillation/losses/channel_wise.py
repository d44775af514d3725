"""Channel-wise distillation: Shu et al., ICCV 2021, arXiv 2011.13256."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import Field

from pipeline.distillation.losses.feature_loss import MAPS, FeatureLoss, FeaturePair
from pipeline.distillation.losses.loss import LayerPair
from pipeline.distillation.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class CWD(FeatureLoss):
    """T^2 / C * sum over channels of KL(teacher || student), each channel a distribution over its h * w places.

    Equation 5, averaged over samples. Without pairs it compares the first output of the task, a map of logits; that
    says where a class is and not how strongly, so a term on labels or logits goes beside it either way. Channels that
    differ are bridged by a learned 1x1 convolution without bias (a distribution over places does not see one), equal
    ones are compared as they are; the larger map is averaged down.
    """

    formula: ClassVar[str] = "T^2 / C * sum_c KL(softmax_hw(F_t / T) || softmax_hw(F_s / T))"
    paper: ClassVar[str] = (
        "Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021, arXiv 2011.13256"
    )

    name: Literal["cwd"] = "cwd"
    pairs: tuple[LayerPair, ...] = ()
    """Empty: the task's first output."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0

    def part(self, pair: FeaturePair, seen: Seen) -> nn.Module | None:
        """A convolution where channels of layers differ; raises RecipeError where those of outputs do."""
        from pipeline.distillation.adapters import adapter

        del seen
        pair.check_same_kind(MAPS)
        if pair.student.shape[1] == pair.teacher.shape[1]:
            return None
        if not self.pairs:
            raise pair.refused("outputs must have the same classes; name pairs of layers, or mend the networks")
        return adapter(pair, bias=False)

    def of_pair(self, pair: FeaturePair, part: nn.Module, seen: Seen) -> Tensor:
        """Scalar."""
        from torch.nn.functional import kl_div, log_softmax

        from pipeline.distillation.adapters import check_same_channels, same_size

        del seen
        pair.check_same_kind(MAPS)
        pair = same_size(pair)
        pair = pair.with_tensors(part(pair.student), pair.teacher)
        check_same_channels(pair)
        student, teacher = (
            log_softmax(found.flatten(2) / self.temperature, dim=2) for found in (pair.student, pair.teacher)
        )
        divergence = kl_div(student, teacher, reduction="none", log_target=True).sum(2)  # (batch, channels)
        return self.temperature**2 * divergence.mean()
