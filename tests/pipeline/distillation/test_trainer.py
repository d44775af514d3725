"""The training loop: resumed to the same bits, stopped where it must, the best kept apart from the last."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_training import CLASSES, context_in, dataset_in
from torch import Tensor

from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.distillation.augment import AffinePlan, Augment, epoch_order
from pipeline.distillation.checkpoint import read_checkpoint
from pipeline.distillation.losses.contrastive import CRD
from pipeline.distillation.losses.hint import Hint
from pipeline.distillation.losses.labels import Labels
from pipeline.distillation.losses.loss import DistillationLoss, LayerPair
from pipeline.distillation.optimizer import Optimizer
from pipeline.distillation.signals import Signals, TeacherSignals
from pipeline.distillation.trainer import fit
from pipeline.distillation.training import Fit, Lesson, OnEpoch, Training
from pipeline.distillation.views import Batch
from pipeline.errors import Cancelled, DataRejected, NotAcceptable, RecipeError
from pipeline.networks.plain import PlainNetwork
from pipeline.process.cancellation import Cancellation
from pipeline.process.torch_state import set_up_torch
from pipeline.tasks.classification import OneOfSeveral
from pipeline.tasks.task import Arrays, Task

EPOCHS = 4
BATCH_SIZE = 8
BATCHES = 4
"""An epoch of the small data set: 36 training images."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset_in(tmp_path_factory.mktemp("data"))


def new_network() -> PlainNetwork:
    return PlainNetwork(1, [4, 8], CLASSES)


def trained(
    dataset: Dataset,
    context: Context,
    name: str = "adamw",
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = 1e-2,
    network: torch.nn.Module | None = None,
    signal_after: int | None = None,
    terms: tuple[DistillationLoss, ...] = (Labels(),),
    on_epoch: OnEpoch | None = None,
    **settings: Any,
) -> Fit:
    """With SIGTERM sent to this process after so many steps, as an operator would."""
    set_up_torch(context)
    optimizer = Optimizer.model_validate(
        {"name": name, "learning_rate": learning_rate, **settings.pop("optimizer", {})}
    )
    augment = Augment(rotate_degrees=10, translate=0.1, zoom=0.1)
    training = Training(epochs, batch_size, optimizer, augment, **settings)
    lesson = Lesson(terms, Interrupting(signal_after))
    return fit(network or new_network(), dataset, lesson, training, context, "student", on_epoch)


class Interrupting(TeacherSignals):
    """A teacher whose answers are images and labels themselves, and who sends SIGTERM before a step ends."""

    def __init__(self, after: int | None) -> None:
        # The first question only tells shapes; no step follows it.
        self._left = None if after is None else after + 1

    def of(self, batch: Batch, rows: NDArray[np.int64], view: int) -> Signals:
        del rows, view
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                signal.raise_signal(signal.SIGTERM)
        answers = torch.nn.functional.one_hot(batch.labels, CLASSES).to(batch.inputs[0].dtype)
        return Signals({"logits": answers}, {"eyes": batch.inputs[0].flatten(1)})

    def in_words(self) -> str:
        return "a test's"


def stopped(
    dataset: Dataset, folder: Path, steps: int, name: str = "adamw", task: Task | None = None, **changes: Any
) -> Context:
    """The context of a training that was stopped after so many steps."""
    cancellation = Cancellation()
    context = context_in(folder, cancellation=cancellation)
    context = replace(context, task=task or context.task)
    with cancellation.listening(), pytest.raises(Cancelled):
        trained(dataset, context, name, signal_after=steps, **changes)
    return context


def assert_equal(one: Fit, other: Fit) -> None:
    for mine, yours in ((one.best, other.best), (one.last, other.last)):
        assert mine.keys() == yours.keys()
        for name in mine:
            assert torch.equal(mine[name], yours[name]), name
    assert one.best_epoch == other.best_epoch
    assert list(one.events) == list(other.events)


def test_two_trainings_of_one_seed_in_one_process_give_the_same_bits(dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(99)
    first = trained(dataset, context_in(tmp_path / "a"))
    torch.rand(7)
    assert_equal(first, trained(dataset, context_in(tmp_path / "b")))


def test_another_seed_gives_other_weights(dataset: Dataset, tmp_path: Path) -> None:
    first, second = (trained(dataset, context_in(tmp_path / str(seed), seed), epochs=1) for seed in (0, 1))
    assert not torch.equal(first.last["head.weight"], second.last["head.weight"])


@pytest.mark.parametrize("steps", range(1, EPOCHS * BATCHES))
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_that_was_stopped_at_any_step_resumes_there_to_the_same_bits(
    dataset: Dataset, tmp_path: Path, steps: int, optimizer: str
) -> None:
    undisturbed = trained(dataset, context_in(tmp_path / "whole"), optimizer)
    stopped(dataset, tmp_path / "stopped", steps, optimizer)
    resumed = context_in(tmp_path / "stopped")
    assert_equal(trained(dataset, resumed, optimizer), undisturbed)
    epochs, rest = divmod(steps, BATCHES)
    where = f"step {rest} of epoch {epochs + 1}" if rest else f"epoch {epochs} of {EPOCHS}"
    assert f"student: resumed after {where}\n" in resumed.log.read_text()


STATEFUL: dict[str, dict[str, Any]] = {
    "a moving average of the weights": {"ema": 0.9},
    "a learned adapter": {"terms": (Labels(), Hint(pairs=(LayerPair(student="head", teacher="eyes"),)))},
    "a memory of embeddings": {"terms": (Labels(), CRD(pairs=(LayerPair(student="head", teacher="eyes"),), dim=8))},
    "clipped gradients and a step schedule": {"optimizer": {"clip_norm": 0.1, "schedule": {"name": "step"}}},
    "shared views": {"views": 2},
    "balanced classes": {"class_weights": "balanced"},
}


@pytest.mark.parametrize("what", STATEFUL)
@pytest.mark.parametrize("steps", [1, BATCHES + 2, 3 * BATCHES])
def test_what_has_state_resumes_to_the_same_bits_too(dataset: Dataset, tmp_path: Path, what: str, steps: int) -> None:
    undisturbed = trained(dataset, context_in(tmp_path / "whole"), **STATEFUL[what])
    stopped(dataset, tmp_path / "stopped", steps, **STATEFUL[what])
    assert_equal(trained(dataset, context_in(tmp_path / "stopped"), **STATEFUL[what]), undisturbed)


def test_what_is_judged_and_kept_is_the_moving_average_where_there_is_one(dataset: Dataset, tmp_path: Path) -> None:
    plain, averaged = (trained(dataset, context_in(tmp_path / str(ema)), ema=ema, epochs=1) for ema in (None, 0.9))
    assert torch.equal(plain.last["head.weight"], averaged.last["head.weight"])
    assert torch.equal(plain.best["head.weight"], plain.last["head.weight"])
    assert not torch.equal(averaged.best["head.weight"], averaged.last["head.weight"])


def test_a_training_that_was_killed_without_a_word_resumes_from_a_finished_epoch(
    dataset: Dataset, tmp_path: Path
) -> None:
    undisturbed = trained(dataset, context_in(tmp_path / "whole"))

    def killed(metrics: Sequence[float]) -> bool:
        if len(metrics) == 2:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        trained(dataset, context_in(tmp_path / "killed"), on_epoch=killed)
    resumed = context_in(tmp_path / "killed")
    assert_equal(trained(dataset, resumed), undisturbed)
    assert "resumed after epoch" in resumed.log.read_text()


def test_dropout_resumes_to_the_same_bits_too(dataset: Dataset, tmp_path: Path) -> None:
    def with_dropout() -> torch.nn.Module:
        set_up_torch(context_in(tmp_path / "any"))
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, CLASSES))

    undisturbed = trained(dataset, context_in(tmp_path / "whole"), network=with_dropout())
    stopped(dataset, tmp_path / "stopped", BATCHES + 2, network=with_dropout())
    assert_equal(trained(dataset, context_in(tmp_path / "stopped"), network=with_dropout()), undisturbed)


class Scripted(OneOfSeveral):
    """Counts as many validation images as it is told, one number an epoch."""

    name = "scripted"

    def __init__(self, *counts: float) -> None:
        self._counts = list(counts)

    def score(self, outputs: Arrays, labels: NDArray[Any]) -> float:
        del outputs
        return self._counts.pop(0) / len(labels)


def test_a_training_without_gain_stops_early(dataset: Dataset, tmp_path: Path) -> None:
    context = replace(context_in(tmp_path), task=Scripted(2, 3, 3, 2, 3, 9))
    done = trained(dataset, context, epochs=6, early_stopping=3)
    # A tie is no gain, and of ties the later is kept.
    assert (len(done.events), done.best_epoch) == (5, 5)
    assert "(stopped early)" in context.log.read_text()


def test_a_training_that_is_not_wanted_any_more_ends_after_its_epoch(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[int] = []

    def unwanted(metrics: Sequence[float]) -> bool:
        seen.append(len(metrics))
        return len(metrics) < 2

    done = trained(dataset, context_in(tmp_path), on_epoch=unwanted)
    assert (done.pruned, len(done.events), seen) == (True, 2, [1, 2])


def test_a_metric_that_is_not_a_number_is_never_the_best(dataset: Dataset, tmp_path: Path) -> None:
    done = trained(dataset, replace(context_in(tmp_path), task=Scripted(1, math.nan, 3, math.nan)))
    assert done.best_epoch == 3


def checkpointed(path: Path) -> dict[str, Any]:
    state = read_checkpoint(path)
    assert state is not None
    return state


def test_a_damaged_checkpoint_is_said_and_not_used(dataset: Dataset, tmp_path: Path) -> None:
    undisturbed = trained(dataset, context_in(tmp_path / "undisturbed"))
    context = stopped(dataset, tmp_path / "stopped", 2 * BATCHES + 1)
    checkpoint = context.checkpoints / "student.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    assert read_checkpoint(checkpoint) is None

    again = trained(dataset, replace(context, cancellation=Cancellation()))

    assert "student: its checkpoint is damaged and was not used; starting over" in context.log.read_text()
    assert all(torch.equal(again.last[name], tensor) for name, tensor in undisturbed.last.items())


def test_the_best_epoch_on_validation_is_kept_apart_from_the_last(dataset: Dataset, tmp_path: Path) -> None:
    done = trained(dataset, replace(context_in(tmp_path / "whole"), task=Scripted(1, 5, 3, 4)))
    second = stopped(dataset, tmp_path / "second", 2 * BATCHES, task=Scripted(1, 5)).checkpoints / "student.pt"
    fourth = trained(dataset, context_in(tmp_path / "fourth")).last
    assert done.best_epoch == 2
    for found, expected in ((done.best, checkpointed(second)["network"]), (done.last, fourth)):
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name
    assert not torch.equal(done.best["head.weight"], done.last["head.weight"])


def test_of_equally_good_epochs_the_later_is_best(dataset: Dataset, tmp_path: Path) -> None:
    assert trained(dataset, replace(context_in(tmp_path), task=Scripted(2, 5, 5, 4))).best_epoch == 3


def test_a_training_that_diverges_stops_and_names_its_step(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(NotAcceptable) as caught:
        trained(dataset, context_in(tmp_path), "sgd", learning_rate=1e30)
    assert str(caught.value) == (
        "student: the loss is nan at step 2 (labels nan); lower the learning rate (now 1e+30) or check the teacher and "
        "the data; the last checkpoint before it was kept"
    )


def test_a_training_that_diverges_keeps_its_last_good_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    network = new_network()
    steps = 0

    def poisoned(module: torch.nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        nonlocal steps
        steps += module.training
        return outputs * math.nan if steps > BATCHES + 1 else outputs

    network.register_forward_hook(poisoned)
    with pytest.raises(NotAcceptable, match=rf"the loss is nan at step {BATCHES + 2} \(labels nan\)"):
        trained(dataset, context, network=network)
    state = checkpointed(context.checkpoints / "student.pt")
    assert (state["epoch"], state["batch"]) == (1, 0)
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


def test_fewer_images_than_a_batch_are_rejected(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataRejected) as caught:
        trained(dataset, context_in(tmp_path), batch_size=37)
    assert str(caught.value) == (
        "student: the training split has 36 samples, fewer than one batch of 37; lower batch_size or add samples"
    )
    assert len(trained(dataset, context_in(tmp_path), batch_size=36, epochs=1).events) == 1


def test_a_network_without_trainable_parameters_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="student: the network has no trainable parameters, so there is nothing to"):
        trained(dataset, context_in(tmp_path), network=new_network().requires_grad_(False))


def test_a_frozen_part_of_a_network_stays_as_it_was(dataset: Dataset, tmp_path: Path) -> None:
    set_up_torch(context_in(tmp_path))
    partly = new_network()
    partly.stages.requires_grad_(False)
    before = partly.stages[0][0].weight.clone()  # type: ignore[index]
    done = trained(dataset, context_in(tmp_path), network=partly, epochs=1)
    assert torch.equal(done.last["stages.0.0.weight"], before)


def test_what_a_network_raises_in_training_mode_is_said_as_the_users_mistake(dataset: Dataset, tmp_path: Path) -> None:
    class Broken(PlainNetwork):
        def forward(self, images: Tensor) -> Tensor:
            raise IndexError(f"{len(images)} images")

    with pytest.raises(RecipeError) as caught:
        trained(dataset, context_in(tmp_path), network=Broken(1, [4], CLASSES))
    assert str(caught.value) == (
        "student: the network raised IndexError in evaluation mode on a batch of shape (8, 1, 8, 8): 8 images"
    )


def test_the_network_is_evaluated_in_evaluation_mode_and_trained_in_training_mode(
    dataset: Dataset, tmp_path: Path
) -> None:
    class Watched(PlainNetwork):
        modes: tuple[tuple[int, bool, bool], ...] = ()

        def forward(self, images: Tensor) -> Tensor:
            self.modes = (*self.modes, (len(images), self.training, torch.is_grad_enabled()))
            return super().forward(images)

    watched = Watched(1, [4], CLASSES)
    trained(dataset, context_in(tmp_path), network=watched, epochs=2)
    validation = (len(dataset.indices("validation")), False, False)
    # The first batch is only asked for its shapes.
    shapes = (BATCH_SIZE, False, False)
    assert watched.modes == (shapes, *(*[(BATCH_SIZE, True, True)] * BATCHES, validation) * 2)


@pytest.mark.parametrize("steps", [1, 2, 10, 250])
def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine(steps: int) -> None:
    optimizer = Optimizer(learning_rate=0.5)
    rates = [optimizer.learning_rate_at(step, steps) for step in range(steps)]
    warm_up = max(1, round(0.1 * steps))
    assert rates[:warm_up] == pytest.approx([0.5 * (step + 1) / warm_up for step in range(warm_up)])
    rest = np.arange(steps - warm_up) / max(1, steps - warm_up)
    assert rates[warm_up:] == pytest.approx(list(0.5 * (1 + np.cos(np.pi * rest)) / 2))
    assert max(rates) == pytest.approx(0.5)
    assert all(rate > 0 and math.isfinite(rate) for rate in rates)


def test_an_epochs_order_is_a_permutation_that_seed_and_epoch_fix() -> None:
    assert sorted(epoch_order(3, 5, 100)) == list(range(100))
    assert epoch_order(3, 5, 100).tolist() == epoch_order(3, 5, 100).tolist()
    orders = {tuple(epoch_order(seed, epoch, 100)) for seed in (0, 1, 2**32 - 1) for epoch in range(5)}
    assert len(orders) == 15


def test_what_is_done_to_an_image_does_not_depend_on_its_batch() -> None:
    images = torch.rand(6, 2, 8, 9, generator=torch.Generator().manual_seed(0))
    plan = AffinePlan(Augment(rotate_degrees=30, translate=0.2, zoom=0.3), seed=1, epoch=2, samples=20)
    rows = np.array([4, 17, 0, 9, 3, 12])
    together = plan.apply(images, rows)
    assert together.shape == images.shape
    assert not torch.equal(together, images)
    for place, row in enumerate(rows):
        alone = plan.apply(images[place : place + 1], np.array([row]))
        torch.testing.assert_close(alone[0], together[place], rtol=0, atol=1e-6)


def test_augmentation_differs_between_epochs_and_is_none_where_none_is_asked() -> None:
    images, rows = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), np.array([0, 1])
    augment = Augment(rotate_degrees=30)
    first, second = (AffinePlan(augment, 0, epoch, 2).apply(images, rows) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, AffinePlan(augment, 0, 0, 2).apply(images, rows))
    assert AffinePlan(Augment(), 0, 0, 2).apply(images, rows) is images


def test_a_translation_moves_no_further_than_was_asked() -> None:
    # A ramp over the width: its change in value is its shift in pixels.
    ramp = torch.arange(32, dtype=torch.float32).expand(200, 1, 32, 32)
    moved = AffinePlan(Augment(translate=0.125), 0, 0, 200).apply(ramp, np.arange(200))
    shifts = (moved - ramp)[:, 0, 16, 16].abs()
    assert 3.5 < shifts.max() <= 4.0 + 1e-4
