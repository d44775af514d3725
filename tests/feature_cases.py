"""Every loss on intermediate representations, with what the layers of two small networks give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.distillation.losses.attention_maps import AttentionMaps, AttentionPair
from pipeline.distillation.losses.attention_transfer import AttentionTransfer
from pipeline.distillation.losses.channel_wise import CWD
from pipeline.distillation.losses.contrastive import CRD
from pipeline.distillation.losses.hidden_states import HiddenStates
from pipeline.distillation.losses.hint import Hint
from pipeline.distillation.losses.loss import DistillationLoss, LayerPair
from pipeline.distillation.losses.relational import RKD
from pipeline.distillation.losses.similarity import Similarity
from pipeline.distillation.seen import Seen
from pipeline.tasks import TASKS

Array = NDArray[np.float64]


Shape = tuple[int, ...]


B, SAMPLES = 4, 9


PAIRS = (LayerPair(student="s", teacher="t"),)


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]])


QUERY, KEY = "q@projection", "k@projection"


def attention(
    student_heads: int = 2, teacher_heads: int = 2, softmax: bool = False, average_heads: bool = False
) -> AttentionMaps:
    heads = AttentionPair(
        student_query="q",
        student_key="k",
        student_heads=student_heads,
        teacher_query="q",
        teacher_key="k",
        teacher_heads=teacher_heads,
    )
    return AttentionMaps(pairs=(heads,), softmax=softmax, average_heads=average_heads)


@dataclass(frozen=True)
class Case:
    """A loss and what the two networks' layers give, without the batch."""

    loss: DistillationLoss
    student: Mapping[str, Shape]
    teacher: Mapping[str, Shape]
    mask: Tensor | None = None

    def seen(self, seed: int, dtype: torch.dtype = torch.float64) -> Seen:
        """Normal values; outputs and features are the same tensors."""
        random = np.random.default_rng(seed)
        student, teacher = (
            {name: torch.from_numpy(random.normal(0, 1, (B, *shape))).to(dtype) for name, shape in shapes.items()}
            for shapes in (self.student, self.teacher)
        )
        return Seen(
            student=student,
            teacher=teacher,
            student_features=student,
            teacher_features=teacher,
            labels=torch.zeros(B, dtype=torch.int64),
            rows=torch.tensor([5, 0, 3, 7]),
            samples=SAMPLES,
            task=TASKS["segmentation"],
            mask=self.mask,
        )

    def learned(self, seen: Seen, seed: int = 0) -> nn.Module | None:
        torch.manual_seed(seed)
        return self.loss.learned(seen)


def case(loss: DistillationLoss, student: Shape, teacher: Shape, mask: Tensor | None = None) -> Case:
    return Case(loss, {"s": student}, {"t": teacher}, mask)


CASES = {
    "hint of maps": case(Hint(pairs=PAIRS), (3, 4, 6), (5, 2, 6)),
    "hint of sequences": case(Hint(pairs=PAIRS), (5, 3), (5, 4), MASK),
    "hint of vectors": case(Hint(pairs=PAIRS), (3,), (4,)),
    "hint without adapter": case(Hint(pairs=PAIRS, adapter="none"), (3, 4, 4), (3, 4, 2)),
    "attention transfer": case(AttentionTransfer(pairs=PAIRS), (3, 4, 2), (5, 2, 2)),
    "similarity": case(Similarity(pairs=PAIRS), (3, 2, 2), (6,)),
    "similarity of sequences": case(Similarity(pairs=PAIRS), (5, 2), (5, 3), MASK),
    "rkd": case(RKD(pairs=PAIRS), (3, 2, 2), (6,)),
    "rkd of sequences": case(RKD(pairs=PAIRS), (5, 2), (5, 3), MASK),
    "crd": case(CRD(pairs=PAIRS, dim=3), (3, 2, 2), (6,)),
    "cwd of layers": case(CWD(pairs=PAIRS), (3, 4, 2), (5, 2, 2)),
    "cwd of outputs": Case(CWD(temperature=2.0), {"logits": (3, 4, 2)}, {"logits": (3, 4, 2)}),
    "hidden states": case(HiddenStates(pairs=PAIRS), (5, 3), (5, 4), MASK),
    "attention maps": Case(attention(), {QUERY: (5, 4), KEY: (5, 4)}, {QUERY: (5, 6), KEY: (5, 6)}, MASK),
    "attention maps after softmax": Case(
        attention(1, 3, softmax=True, average_heads=True),
        {QUERY: (5, 2), KEY: (5, 2)},
        {QUERY: (5, 6), KEY: (5, 6)},
        MASK,
    ),
}


every_case = pytest.mark.parametrize("name", CASES)


SEEDS = st.integers(0, 1000)


def found(one: Case, seen: Seen, learned: nn.Module | None) -> Tensor:
    """The value, with the same draws every time and a memory that stays."""
    if learned is not None:
        learned.eval()
    torch.manual_seed(1)
    return one.loss.value(seen, learned)


def ends(seen: Seen) -> tuple[Array, Array]:
    return seen.student_features["s"].numpy(), seen.teacher_features["t"].numpy()


def parameters(learned: nn.Module | None) -> dict[str, Array]:
    assert learned is not None
    return {name: value.numpy(force=True) for name, value in learned.state_dict().items()}


def embedded(features: Array, masked: bool = False) -> Array:
    if features.ndim == 4:
        return np.asarray(features.mean(axis=(2, 3)))
    if features.ndim == 3 and masked:
        sums = [features[row][MASK[row].numpy() > 0].sum(axis=0) for row in range(B)]
        return np.stack([total / max(1, int(count)) for total, count in zip(sums, MASK.sum(1), strict=True)])
    return features


def made_identical(learned: nn.Module | None) -> None:
    """Adapters that change nothing."""
    for parameter in learned.parameters() if learned is not None else ():
        nn.init.zeros_(parameter)
        if parameter.dim() > 1:
            parameter.data.flatten(1).fill_diagonal_(1)


def repeated(seen: Seen, times: int) -> Seen:
    """The same batch, several times over."""
    student, teacher = (
        {name: value.repeat(times, *[1] * (value.dim() - 1)) for name, value in features.items()}
        for features in (seen.student, seen.teacher)
    )
    return replace(
        seen,
        student=student,
        teacher=teacher,
        student_features=student,
        teacher_features=teacher,
        labels=seen.labels.repeat(times),
        rows=seen.rows.repeat(times),
        mask=None if seen.mask is None else seen.mask.repeat(times, 1),
    )


def rows_of(seen: Seen, rows: slice) -> Seen:
    """Some samples of a batch."""
    student, teacher = (
        {name: value[rows] for name, value in features.items()} for features in (seen.student, seen.teacher)
    )
    return replace(
        seen,
        student=student,
        teacher=teacher,
        student_features=student,
        teacher_features=teacher,
        labels=seen.labels[rows],
        rows=seen.rows[rows],
        mask=None if seen.mask is None else seen.mask[rows],
    )
