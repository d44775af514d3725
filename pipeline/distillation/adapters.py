"""What makes a student's feature comparable with its teacher's: learned adapters, and pooling to one size.

Imports torch: import it inside functions.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from pipeline.distillation.losses.feature_loss import MAPS, SEQUENCES, VECTORS, FeaturePair


def adapter(pair: FeaturePair, bias: bool) -> nn.Module:
    """Learns to map the student's channels to the teacher's, in the student's dtype and on its device.

    (batch, C, h, w): a 1x1 convolution. (batch, length, C) and (batch, C): a linear map of the last axis. Initialised
    from torch's random state of the CPU, so with the same values on every device. Raises RecipeError where ranks or
    lengths differ.
    """
    pair.check_same_kind(VECTORS, SEQUENCES, MAPS)
    student, teacher = pair.student, pair.teacher
    made: nn.Module
    if student.dim() == MAPS:
        made = nn.Conv2d(student.shape[1], teacher.shape[1], 1, bias=bias, dtype=student.dtype)
    else:
        made = nn.Linear(student.shape[-1], teacher.shape[-1], bias=bias, dtype=student.dtype)
    return made.to(student.device)


def check_same_channels(pair: FeaturePair) -> None:
    """Raises RecipeError where nothing is learned, and ranks, lengths or channels differ."""
    pair.check_same_kind(VECTORS, SEQUENCES, MAPS)
    axis = 1 if pair.student.dim() == MAPS else -1
    if pair.student.shape[axis] != pair.teacher.shape[axis]:
        raise pair.refused('channels differ; write adapter = "learned", or name layers of equally many channels')


def same_size(pair: FeaturePair) -> FeaturePair:
    """Maps of different height or width: the larger is averaged down to the smaller, each axis for itself."""
    if pair.student.dim() != MAPS or pair.student.shape[2:] == pair.teacher.shape[2:]:
        return pair
    height, width = (min(pair.student.shape[axis], pair.teacher.shape[axis]) for axis in (2, 3))
    student, teacher = (adaptive_avg_pool2d(found, (height, width)) for found in (pair.student, pair.teacher))
    return pair.with_tensors(student, teacher)


def mean_over_batch(values: Tensor, mask: Tensor | None) -> Tensor:
    """Scalar: the mean of each sample, and of these the mean; padding of (batch, length, channels) counts nowhere.

    A sample weighs the same however much of it is padding, so that the mean over a batch is that of its halves.
    """
    if mask is None or values.dim() != SEQUENCES:
        return values.mean()
    real = mask > 0  # (batch, length)
    return (values.mean(2).where(real, 0).sum(1) / real.sum(1).clamp(min=1)).mean()


def embedding(found: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, channels): a map averaged over height and width, a sequence over its real tokens, a vector as it is."""
    if found.dim() == MAPS:
        return found.mean((2, 3))
    if found.dim() == VECTORS:
        return found
    if mask is None:
        return found.mean(1)
    real = (mask > 0).unsqueeze(2)  # (batch, length, 1)
    return found.where(real, 0).sum(1) / real.sum(1).clamp(min=1)


def flat(found: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, everything): flattened, padding of a sequence set to zero."""
    if found.dim() == SEQUENCES and mask is not None:
        found = found.where((mask > 0).unsqueeze(2), 0)
    return found.flatten(1)
