"""The distillation loss against its formula, written again in numpy and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.distillation import LOSSES
from pipeline.distillation.kd import KD
from pipeline.tasks import TASKS

TASK = TASKS["classification"]
TEMPERATURES = st.floats(0.25, 20)
ALPHAS = st.floats(0, 1)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def reference(
    student: NDArray[np.float64],
    teacher: NDArray[np.float64],
    labels: NDArray[np.int64],
    temperature: float,
    alpha: float,
) -> float:
    """alpha * CE + (1 - alpha) * T^2 * KL(teacher || student), averaged over the batch: arXiv 1503.02531."""
    cross_entropy = -log_softmax(student)[np.arange(len(labels)), labels].mean()
    wanted, found = log_softmax(teacher / temperature), log_softmax(student / temperature)
    divergence = (np.exp(wanted) * (wanted - found)).sum(axis=1).mean()
    return float(alpha * cross_entropy + (1 - alpha) * temperature**2 * divergence)


def logits(seed: int, batch: int = 5, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    student, teacher = random.normal(0, 3, (2, batch, classes))
    return torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(random.integers(0, classes, batch))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), TEMPERATURES, ALPHAS)
def test_the_loss_is_its_formula(seed: int, temperature: float, alpha: float) -> None:
    student, teacher, labels = logits(seed)
    found = KD(temperature=temperature, alpha=alpha)(student, teacher, labels, TASK)
    expected = reference(student.numpy(), teacher.numpy(), labels.numpy(), temperature, alpha)
    assert found.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), TEMPERATURES, ALPHAS)
def test_a_student_that_agrees_with_its_teacher_is_judged_by_the_labels_alone(
    seed: int, temperature: float, alpha: float
) -> None:
    student, _, labels = logits(seed)
    found = KD(temperature=temperature, alpha=alpha)(student, student, labels, TASK)
    assert found.item() == pytest.approx(alpha * TASK.supervised_loss(student, labels).item(), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), TEMPERATURES, ALPHAS, st.integers(2, 4))
def test_a_batch_that_is_repeated_has_the_same_loss(seed: int, temperature: float, alpha: float, times: int) -> None:
    student, teacher, labels = logits(seed)
    loss = KD(temperature=temperature, alpha=alpha)
    repeated = loss(student.repeat(times, 1), teacher.repeat(times, 1), labels.repeat(times), TASK)
    assert repeated.item() == pytest.approx(loss(student, teacher, labels, TASK).item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_gradient_is_the_derivative(temperature: float, alpha: float) -> None:
    student, teacher, labels = logits(0)
    loss = KD(temperature=temperature, alpha=alpha)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda outputs: loss(outputs, teacher, labels, TASK), (student,))


def test_the_soft_gradient_tends_to_the_difference_of_centred_logits_at_high_temperature() -> None:
    # Section 2.1 of the paper, times T^2: (z - v) / N for logits of mean zero, averaged over the batch.
    student, teacher, labels = logits(0)
    student, teacher = (each - each.mean(1, keepdim=True) for each in (student, teacher))
    student.requires_grad_()
    KD(temperature=1e4, alpha=0.0)(student, teacher, labels, TASK).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    batch, classes = student.shape
    expected = (student.detach() - teacher) / (batch * classes)
    torch.testing.assert_close(student.grad, expected, rtol=1e-2, atol=1e-4)


def test_the_loss_is_a_finite_scalar_for_logits_that_overflow_a_plain_softmax() -> None:
    student, teacher, labels = (torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]]), torch.tensor([1]))
    found = KD()(student, teacher, labels, TASK)
    assert found.shape == ()
    assert torch.isfinite(found)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_carries_the_name_that_recipes_use(name: str) -> None:
    assert LOSSES[name].model_fields["name"].default == name
