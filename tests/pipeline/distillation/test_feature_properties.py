"""What every loss on intermediate representations has: derivative, least value, range, batch, learned parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from feature_cases import (
    CASES,
    MASK,
    PAIRS,
    Case,
    attention,
    every_case,
    found,
    made_identical,
    repeated,
    rows_of,
)
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.distillation.losses.contrastive import CRD
from pipeline.distillation.losses.loss import LayerPair
from pipeline.distillation.losses.relational import RKD
from pipeline.distillation.losses.similarity import Similarity
from pipeline.distillation.seen import Seen


class Term(nn.Module):
    """A loss and what it learns as one module, whose parameters functional_call can swap."""

    def __init__(self, one: Case, learned: nn.Module | None) -> None:
        super().__init__()
        self.one, self.learned = one, learned

    def forward(self, seen: Seen) -> Tensor:
        return found(self.one, seen, self.learned)


@every_case
def test_the_gradient_is_the_derivative(name: str) -> None:
    one = CASES[name]
    seen = one.seen(0)
    term = Term(one, one.learned(seen))
    own = dict(term.named_parameters())
    term(seen)  # what is estimated once is no part of the derivative

    def value(*given: Tensor) -> Any:
        student = dict(zip(seen.student, given, strict=False))
        swapped = dict(zip(own, given[len(student) :], strict=True))
        return functional_call(term, swapped, (replace(seen, student=student, student_features=student),))

    inputs = [each.detach().clone().requires_grad_() for each in (*seen.student.values(), *own.values())]
    assert torch.autograd.gradcheck(value, inputs)


IDENTICAL = {
    "hint of maps": (3, 4, 4),
    "hint of sequences": (5, 3),
    "hint of vectors": (3,),
    "hint without adapter": (3, 4, 4),
    "attention transfer": (3, 4, 4),
    "similarity": (3, 4, 4),
    "similarity of sequences": (5, 3),
    "rkd": (3, 4, 4),
    "rkd of sequences": (5, 3),
    "cwd of layers": (3, 4, 4),
    "hidden states": (5, 3),
}


@pytest.mark.parametrize("name", [name for name in CASES if name != "crd"])
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(name: str) -> None:
    one = CASES[name]
    if name in IDENTICAL:
        one = replace(one, student={"s": IDENTICAL[name]}, teacher={"t": IDENTICAL[name]})
    elif one.student != one.teacher:
        one = replace(one, loss=attention(softmax=True, average_heads=True), student=one.teacher)
    seen = one.seen(0)
    for ours, theirs in zip(seen.student.values(), seen.teacher.values(), strict=True):
        ours.copy_(theirs).requires_grad_()
    learned = one.learned(seen)
    made_identical(learned)
    value = found(one, seen, learned)
    value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert value.item() == pytest.approx(0, abs=1e-12)
    for ours in seen.student.values():
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad, torch.zeros_like(ours), rtol=0, atol=1e-9)


@every_case
def test_a_student_that_differs_from_its_teacher_has_a_loss(name: str) -> None:
    one = CASES[name]
    seen = one.seen(0)
    assert found(one, seen, one.learned(seen)).item() > 1e-3


@every_case
@pytest.mark.parametrize("times", [2, 3])
def test_a_batch_that_is_repeated_has_the_same_loss_but_similarity_falls_with_its_size(name: str, times: int) -> None:
    one = CASES[name]
    seen = one.seen(0)
    learned = one.learned(seen)
    expected = found(one, seen, learned).item() / (times if isinstance(one.loss, Similarity) else 1)
    assert found(one, repeated(seen, times), learned).item() == pytest.approx(expected, rel=1e-9)


@every_case
def test_halves_of_a_batch_average_to_the_whole_where_a_loss_says_so(name: str) -> None:
    one = CASES[name]
    seen = one.seen(0)
    learned = one.learned(seen)
    whole = found(one, seen, learned).item()
    halves = [found(one, rows_of(seen, rows), learned).item() for rows in (slice(0, 2), slice(2, 4))]
    if one.loss.over_samples:
        assert np.mean(halves) == pytest.approx(whole, rel=1e-10)
    else:
        assert isinstance(one.loss, Similarity | RKD | CRD)


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 60000.0])
def test_value_and_gradients_are_finite_over_the_range_of_half_precision(
    name: str, dtype: torch.dtype, scale: float
) -> None:
    one = CASES[name]
    half = one.seen(0, torch.float32)
    for value in (*half.student.values(), *half.teacher.values()):
        value.copy_(value.clamp(-1, 1).mul(scale).to(dtype).float())
    for value in half.student.values():
        value.requires_grad_()
    learned = one.learned(half)
    value = found(one, half, learned)
    value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert torch.isfinite(value)
    for each in (*half.student.values(), *(learned.parameters() if learned is not None else ())):
        assert each.grad is not None
        assert torch.isfinite(each.grad).all()


@pytest.mark.parametrize("name", ["similarity", "rkd"])
def test_a_batch_of_one_relates_nothing(name: str) -> None:
    one = CASES[name]
    alone = rows_of(one.seen(0), slice(0, 1))
    assert found(one, alone, None).item() == pytest.approx(0, abs=1e-12)


@every_case
def test_padding_does_not_change_the_loss_whatever_it_holds(name: str) -> None:
    one = CASES[name]
    seen = one.seen(0)
    learned = one.learned(seen)
    before = found(one, seen, learned).item()
    for value in (*seen.student.values(), *seen.teacher.values()):
        if one.mask is not None:
            value[MASK == 0] = 1e6
    assert found(one, seen, learned).item() == pytest.approx(before, rel=1e-12)


LEARNS = [name for name in CASES if name.startswith("hint of") or name in {"crd", "cwd of layers", "hidden states"}]


@pytest.mark.parametrize("name", LEARNS)
def test_what_is_learned_gets_a_gradient_and_is_kept_in_a_state_dict(name: str) -> None:
    one = CASES[name]
    seen = one.seen(0)
    learned, other = one.learned(seen), one.learned(seen, seed=1)
    assert learned is not None
    assert other is not None
    found(one, seen, learned).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for parameter in learned.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert found(one, seen, other).item() != pytest.approx(found(one, seen, learned).item(), rel=1e-6)
    other.load_state_dict(learned.state_dict())
    assert found(one, seen, other).item() == found(one, seen, learned).item()


@pytest.mark.parametrize("name", [name for name in CASES if name not in LEARNS])
def test_the_others_learn_nothing(name: str) -> None:
    assert CASES[name].learned(CASES[name].seen(0)) is None


@pytest.mark.parametrize("name", ["hint of maps", "attention transfer", "crd", "cwd of layers"])
def test_several_pairs_are_averaged_and_each_learns_its_own(name: str) -> None:
    one = CASES[name]
    first, second = one.seen(0), one.seen(1)
    settings_ = one.loss.model_dump(exclude={"pairs"})
    pairs = (*PAIRS, LayerPair(student="s2", teacher="t2"))
    both = replace(one, loss=type(one.loss).model_validate({**settings_, "pairs": pairs}))
    seen = replace(
        first,
        student_features={**first.student_features, "s2": second.student_features["s"]},
        teacher_features={**first.teacher_features, "t2": second.teacher_features["t"]},
    )
    learned = both.learned(seen)
    parts = [None, None] if learned is None else [nn.ModuleList([part]) for part in learned.children()]
    assert len(parts) == 2
    expected = [found(one, batch, part).item() for batch, part in zip((first, second), parts, strict=True)]
    assert found(both, seen, learned).item() == pytest.approx(np.mean(expected), rel=1e-12)
    assert both.loss.student_layers() == ("s", "s2")
    assert both.loss.teacher_layers() == ("t", "t2")
