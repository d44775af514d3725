"""The training loop: one network, one lesson, the best epoch chosen on validation; a kill at any step costs nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.distillation.augment import epoch_order
from pipeline.distillation.checkpoint import read_checkpoint, write_checkpoint
from pipeline.distillation.epochs import Epochs, copied
from pipeline.distillation.training import Fit, Lesson, OnEpoch, Training
from pipeline.distillation.views import Batches, Views
from pipeline.errors import Cancelled, DataRejected, RecipeError

if TYPE_CHECKING:
    from torch import nn

    from pipeline.process.progress import Phase

CHECKPOINT_INTERVAL_S = 30.0
CHECKPOINT_SHARE = 0.02
"""Most of a training's time that checkpoints at the ends of epochs take; the first is written whatever it takes."""


def fit(
    network: nn.Module,
    dataset: Dataset,
    lesson: Lesson,
    training: Training,
    context: Context,
    title: str,
    on_epoch: OnEpoch | None = None,
) -> Fit:
    """Trains on the training split; resumes from `context.checkpoints` to the same bits on the same machine.

    Raises NotAcceptable where the loss is no longer finite, DataRejected for fewer samples than a batch, RecipeError
    for a network that cannot be trained, Cancelled.
    """
    return _Training(network, dataset, lesson, training, context, title, on_epoch).run()


class _Training:
    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        lesson: Lesson,
        training: Training,
        context: Context,
        title: str,
        on_epoch: OnEpoch | None,
    ) -> None:
        from pipeline.distillation.ema import MovingAverage
        from pipeline.distillation.stepper import Stepper

        self._dataset, self._lesson, self._settings = dataset, lesson, training
        self._context, self._title = context, title
        samples = len(dataset.indices("train"))
        self._batches_each = _batches_each(samples, training.batch_size, title)
        self._share = context.world.share(training.batch_size, f"{title}: batch_size")
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise RecipeError(f"{title}: the network has no trainable parameters, so there is nothing to train")
        self._network = network.to(context.world.device())
        self._views = Views(training.augment, context.seed, samples, training.views)
        parameter = next(network.parameters())
        self._batches = Batches(dataset, self._views, context.task.dense, parameter.device, parameter.dtype)
        self._stepper = Stepper(self._network, dataset, lesson.terms, training, context, title)
        self._average = None if training.ema is None else MovingAverage(self._network, training.ema)
        self._epochs = Epochs(self._network, self._average, dataset, training, context, title, on_epoch)
        self._checkpoint = context.checkpoints / f"{title}.pt"
        self._saved_s, self._saving_s = time.monotonic(), 0.0
        self._sums: NDArray[np.float64] = np.zeros(0)
        self._tracked = context.tracking.training(title)

    def run(self) -> Fit:
        with self._tracked:
            return self._run()

    def _run(self) -> Fit:
        self._prepare()
        epoch, batch = self._resume()
        ended, done = self._epochs.why_ended(), epoch * self._batches_each + batch
        with self._context.progress.phase(self._title, self._settings.epochs * self._batches_each) as phase:
            if done:
                where = f"step {batch} of epoch {epoch + 1}" if batch else f"epoch {epoch} of {self._settings.epochs}"
                self._context.say(f"{self._title}: resumed after {where}")
                phase.advance(done)
            while epoch < self._settings.epochs and not ended:
                self._epoch(epoch, batch, phase)
                epoch, batch = epoch + 1, 0
                self._close_epoch(epoch)
                ended = self._epochs.why_ended()
                if ended or epoch == self._settings.epochs or self._may_save():
                    self._save(epoch, 0)
                # A killed training may repeat an epoch: trackers add what they lack, and nothing twice.
                self._tracked.write(self._epochs.events)
        self._stepper.close()
        done_as = Fit(
            self._epochs.best,
            copied(self._network),
            self._epochs.best_epoch,
            tuple(self._epochs.events),
            ended == "pruned",
        )
        self._context.say(
            f"{self._title}: epoch {done_as.best_epoch} of {self._settings.epochs} is best, "
            f"validation {self._context.task.metric} {done_as.validation:.2%}{f' ({ended})' if ended else ''}"
        )
        return done_as

    def _prepare(self) -> None:
        """A first batch tells the shapes of what the terms learn."""
        rows = np.arange(self._settings.batch_size, dtype=np.int64)
        batch = self._batches.of(rows, 0)
        self._stepper.prepare(batch, self._lesson.signals.of(batch, rows, 0))

    def _epoch(self, epoch: int, first_batch: int, phase: Phase) -> None:
        order, view = epoch_order(self._context.seed, epoch, len(self._batches)), self._views.of_epoch(epoch)
        if first_batch == 0:
            import torch

            # Dropout and the like in a user's network draw from torch's own state.
            torch.manual_seed(self._context.seed * 1_000_003 + epoch)
            self._sums = np.zeros(1 + len(self._lesson.terms))
        self._network.train()
        for position in range(first_batch, self._batches_each):
            self._stop_or_save(epoch, position)
            start = position * self._settings.batch_size
            rows = order[start : start + self._settings.batch_size][self._share]
            batch = self._batches.of(rows, view)
            step = epoch * self._batches_each + position
            self._sums += self._stepper.step(
                batch,
                self._lesson.signals.of(batch, rows, view),
                step,
                self._settings.epochs * self._batches_each,
                step / self._batches_each,
            )
            if self._average is not None:
                self._average.update()
            phase.advance(1, self._figures(self._sums[0] / (position + 1)))

    def _stop_or_save(self, epoch: int, position: int) -> None:
        """Before a step: a cancelled training writes where it is, a long one does so from time to time."""
        late = time.monotonic() - self._saved_s > CHECKPOINT_INTERVAL_S
        try:
            self._context.cancellation.check()
        except Cancelled:
            self._save(epoch, position)
            raise
        if late:
            self._save(epoch, position)

    def _may_save(self) -> bool:
        """Whether a checkpoint now would cost a small share of the time since the last one."""
        return self._saving_s <= CHECKPOINT_SHARE * (time.monotonic() - self._saved_s)

    def _close_epoch(self, epoch: int) -> None:
        means = (self._sums / self._batches_each).tolist()
        terms = dict(zip(self._stepper.term_names, means[1:], strict=True))
        self._epochs.close(epoch * self._batches_each, means[0], terms, self._stepper.learning_rate)

    def _save(self, epoch: int, batch: int) -> None:
        started_s = self._saved_s = time.monotonic()
        if not self._context.world.leads:
            return
        state = {
            "epoch": epoch,
            "batch": batch,
            "sums": self._sums.tolist(),
            **self._epochs.state(),
            "average": None if self._average is None else self._average.state(),
            **self._stepper.state(),
        }
        write_checkpoint(self._checkpoint, state)
        self._saving_s = time.monotonic() - started_s

    def _resume(self) -> tuple[int, int]:
        """(epoch, step of it) to go on with."""
        state = read_checkpoint(self._checkpoint)
        if state is None:
            if self._checkpoint.exists():
                self._context.say(f"{self._title}: its checkpoint is damaged and was not used; starting over")
            return 0, 0
        self._stepper.restore(state)
        if self._average is not None:
            self._average.restore(state["average"])
        self._epochs.restore(state)
        self._sums = np.asarray(state["sums"])
        self._tracked.write(self._epochs.events)
        return int(state["epoch"]), int(state["batch"])

    def _figures(self, mean_loss: float) -> str:
        done = self._epochs.events
        validation = f"  validation {done[-1]['validation']:.1%}" if done else ""
        return f"loss {mean_loss:.3f}{validation}"


def _batches_each(samples: int, batch_size: int, title: str) -> int:
    if samples < batch_size:
        raise DataRejected(
            f"{title}: the training split has {samples} samples, fewer than one batch of {batch_size}; "
            "lower batch_size or add samples"
        )
    return samples // batch_size
