"""The training loop: one network, one loss, a checkpoint every epoch, the best chosen on validation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline import atomic
from pipeline.context import Context
from pipeline.data import Dataset
from pipeline.distillation.augment import AffinePlan, Augment, epoch_order
from pipeline.distillation.checkpoint import read_checkpoint, write_checkpoint
from pipeline.errors import DataRejected, NotAcceptable, RecipeError, ResourceExhausted, is_out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WARM_UP_SHARE = 0.1
EVALUATION_BATCH_SIZE = 256

BatchLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""(the network's outputs, images, labels) -> scalar."""
State = dict[str, "Tensor"]


class Optimizer(BaseModel):
    """AdamW or SGD with momentum 0.9, cosine decay to zero after a linear warm-up over a tenth of the steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4

    def make(self, parameters: Any) -> torch.optim.Optimizer:
        """For the parameters of one network."""
        import torch

        if self.name == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay, nesterov=True
            )
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """A closed form, so that a resumed run needs no schedule state."""
        warm_up = max(1, round(WARM_UP_SHARE * steps))
        if step < warm_up:
            return self.learning_rate * (step + 1) / warm_up
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@dataclass(frozen=True)
class Schedule:
    """How long and how."""

    epochs: int
    batch_size: int
    optimizer: Optimizer
    augment: Augment


@dataclass(frozen=True)
class Fit:
    """What a training left."""

    best: State
    last: State
    best_epoch: int
    """Counted from 1."""
    events: Sequence[dict[str, Any]]
    """One an epoch: phase, epoch, mean loss, validation metric."""


def fit(network: nn.Module, dataset: Dataset, loss: BatchLoss, schedule: Schedule, context: Context, title: str) -> Fit:
    """Trains on the training split; resumes from `context.checkpoints` to the same bits on the same machine.

    Raises NotAcceptable where the loss is no longer finite, DataRejected for fewer samples than a batch, RecipeError
    for a network that cannot be trained, Cancelled.
    """
    return _Training(network, dataset, loss, schedule, context, title).run()


def predictions(network: nn.Module, dataset: Dataset, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """The network's outputs in evaluation mode, (len(indices), outputs)."""
    import torch

    network.eval()
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(dataset.images(indices[start : start + EVALUATION_BATCH_SIZE]))).numpy()
            for start in range(0, len(indices), EVALUATION_BATCH_SIZE)
        ]
    return np.concatenate(parts)


def set_up_torch(context: Context) -> None:
    """Threads and random state: with one thread the same seed gives the same bits."""
    import torch

    torch.set_num_threads(context.threads)
    torch.manual_seed(context.seed)


class _Training:
    def __init__(
        self, network: nn.Module, dataset: Dataset, loss: BatchLoss, schedule: Schedule, context: Context, title: str
    ) -> None:
        self._network, self._dataset, self._loss = network, dataset, loss
        self._schedule, self._context, self._title = schedule, context, title
        self._train, self._validation = dataset.indices("train"), dataset.indices("validation")
        self._batches = len(self._train) // schedule.batch_size
        if self._batches == 0:
            raise DataRejected(
                f"{title}: the training split has {len(self._train)} images, fewer than one batch of "
                f"{schedule.batch_size}; lower batch_size or add images"
            )
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not trainable:
            raise RecipeError(f"{title}: the network has no trainable parameters, so there is nothing to train")
        self._optimizer = schedule.optimizer.make(trainable)
        self._checkpoint = context.checkpoints / f"{title}.pt"
        self._best: State = {}
        self._best_epoch = 0
        self._events: list[dict[str, Any]] = []

    def run(self) -> Fit:
        done = self._resume()
        with self._context.progress.phase(self._title, self._schedule.epochs * self._batches) as phase:
            if done:
                self._context.say(f"{self._title}: resumed after epoch {done} of {self._schedule.epochs}")
                phase.advance(done * self._batches)
            for epoch in range(done, self._schedule.epochs):
                mean_loss = self._epoch(epoch, phase)
                self._close_epoch(epoch + 1, mean_loss)
        best = self._events[self._best_epoch - 1]
        self._context.say(
            f"{self._title}: epoch {self._best_epoch} of {self._schedule.epochs} is best, "
            f"validation {self._context.task.metric} {best['validation']:.2%}"
        )
        return Fit(self._best, _copied(self._network), self._best_epoch, tuple(self._events))

    def _epoch(self, epoch: int, phase: Any) -> float:
        import torch

        # Dropout and the like in a user's network draw from torch's own state.
        torch.manual_seed(self._context.seed * 1_000_003 + epoch)
        order = epoch_order(self._context.seed, epoch, len(self._train))
        plan = AffinePlan(self._schedule.augment, self._context.seed, epoch, len(self._train))
        self._network.train()
        total = 0.0
        for batch in range(self._batches):
            self._context.cancellation.check()
            rows = order[batch * self._schedule.batch_size : (batch + 1) * self._schedule.batch_size]
            total += self._step(epoch * self._batches + batch, rows, plan)
            phase.advance(1, self._figures(total / (batch + 1)))
        return total / self._batches

    def _step(self, step: int, rows: NDArray[np.int64], plan: AffinePlan) -> float:
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.optimizer.learning_rate_at(step, self._schedule.epochs * self._batches)
        images = plan.apply(torch.from_numpy(self._dataset.images(self._train[rows])), rows)
        labels = torch.from_numpy(self._dataset.labels(self._train[rows]))
        value = self._loss(self._outputs(images), images, labels)
        if not torch.isfinite(value):
            raise NotAcceptable(
                f"{self._title}: the loss is {value.item()} at step {step + 1}; lower the learning rate "
                f"(now {self._schedule.optimizer.learning_rate:g}) or check the teacher and the data"
            )
        self._optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimizer.step()
        return value.item()

    def _outputs(self, images: Tensor) -> Tensor:
        try:
            outputs: Tensor = self._network(images)
        except Exception as error:  # a network of the user's may raise anything
            if is_out_of_memory(error):
                raise ResourceExhausted(f"{self._title}: {error}; lower batch_size and run again") from error
            raise RecipeError(
                f"{self._title}: the network raised {type(error).__name__} in training mode on a batch of shape "
                f"{tuple(images.shape)}: {error}"
            ) from error
        return outputs

    def _close_epoch(self, epoch: int, mean_loss: float) -> None:
        outputs = predictions(self._network, self._dataset, self._validation)
        correct = self._context.task.correct(outputs, self._dataset.labels(self._validation))
        metric = float(correct.mean())
        self._events.append({"phase": self._title, "epoch": epoch, "loss": mean_loss, "validation": metric})
        # Ties go to the later epoch: it has seen the lower learning rate.
        if not self._best_epoch or metric >= self._events[self._best_epoch - 1]["validation"]:
            self._best, self._best_epoch = _copied(self._network), epoch
        self._save(epoch)

    def _save(self, epoch: int) -> None:
        state = {
            "epoch": epoch,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "best_epoch": self._best_epoch,
            "events": self._events,
        }
        write_checkpoint(self._checkpoint, state)

    def _resume(self) -> int:
        state = read_checkpoint(self._checkpoint)
        if state is None:
            if self._checkpoint.exists():
                self._context.say(f"{self._title}: its checkpoint is damaged and was not used; starting over")
            return 0
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best, self._best_epoch, self._events = state["best"], state["best_epoch"], state["events"]
        return int(state["epoch"])

    def _figures(self, mean_loss: float) -> str:
        validation = f"  validation {self._events[-1]['validation']:.1%}" if self._events else ""
        return f"loss {mean_loss:.3f}{validation}"


def _copied(network: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def write_events(path: Path, events: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    atomic.write_text(path, "".join(json.dumps(event) + "\n" for event in events))
