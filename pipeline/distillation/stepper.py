"""One step of a training: forward, backward, clipped, applied; and all of its state that a checkpoint must hold.

Imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.distillation.learner import Learner
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.signals import Signals
from pipeline.distillation.training import ClassWeights, Training
from pipeline.distillation.views import Batch
from pipeline.errors import EdgestillError, NotAcceptable, RecipeError

# From Ampere on, bfloat16 is as fast as float16 and needs no scaling of the loss.
AMPERE = (8, 0)


class Stepper:
    """Moves a network's weights, one batch at a time."""

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        terms: tuple[DistillationLoss, ...],
        training: Training,
        context: Context,
        title: str,
    ) -> None:
        self._optimizer_settings, self._context, self._title = training.optimizer, context, title
        device = next(network.parameters()).device
        self._half = half_precision(device) if training.mixed_precision else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half is torch.float16)
        self._learner = Learner(
            network,
            terms,
            context.task,
            dataset.interface.input_names,
            samples=len(dataset.indices("train")),
            epochs=training.epochs,
            world=context.world,
            half=self._half,
            class_weights=_class_weights(training.class_weights, dataset, context, device),
        )
        self._network = network
        self.term_names = self._learner.term_names
        self.learning_rate = 0.0

    def prepare(self, batch: Batch, signals: Signals) -> None:
        """Makes what the terms learn, the optimizer of all that is trained, and the link to other processes."""
        with self._named():
            self._learner.prepare(batch, signals)
        self._trained = [parameter for parameter in self._learner.parameters() if parameter.requires_grad]
        self._optimizer = self._optimizer_settings.make(self._trained)
        self._parallel: nn.Module = self._learner
        if self._context.world.size > 1:
            unused = self._leaves_parameters_out(batch, signals)
            self._parallel = DistributedDataParallel(self._learner, find_unused_parameters=unused)

    def step(self, batch: Batch, signals: Signals, step: int, steps: int, epoch: float) -> NDArray[np.float64]:
        """The loss and each term's value, (1 + terms,); raises NotAcceptable where one is not finite."""
        self.learning_rate = self._optimizer_settings.learning_rate_at(step, steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        with self._named():
            total, values = self._parallel(batch, signals, epoch)
        told = torch.cat([total.detach().reshape(1), values])
        if self._context.world.size > 1:
            # All processes must learn of a loss that is not finite, or they would wait for each other for ever.
            distributed.all_reduce(told, distributed.ReduceOp.SUM)
            told /= self._context.world.size
        found: NDArray[np.float64] = told.double().cpu().numpy()
        self._require_finite(found, step)
        self._optimizer.zero_grad()
        self._scaler.scale(total).backward()
        if self._optimizer_settings.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._trained, self._optimizer_settings.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return found

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the same step follows from it, bit for bit on a CPU."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "network": self._network.state_dict(),
            "learned": self._learner.learned.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": cuda,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """What `state` gave."""
        self._network.load_state_dict(state["network"])
        self._learner.learned.load_state_dict(state["learned"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_random"])

    def close(self) -> None:
        """Leaves the network as it was found, but for its weights."""
        self._learner.close()

    def _leaves_parameters_out(self, batch: Batch, signals: Signals) -> bool:
        """Whether a step leaves some parameter without a gradient, which the processes must then know of."""
        training = self._learner.training
        self._learner.eval()
        total, _ = self._learner(batch, signals, 0.0)
        total.backward()
        self._learner.train(training)
        unused = any(parameter.grad is None for parameter in self._trained)
        self._learner.zero_grad(set_to_none=True)
        return unused

    def _require_finite(self, found: NDArray[np.float64], step: int) -> None:
        if np.isfinite(found).all():
            return
        broken = [
            f"{name} {value:g}"
            for name, value in zip(self.term_names, found[1:], strict=True)
            if not np.isfinite(value)
        ]
        raise NotAcceptable(
            f"{self._title}: the loss is {found[0]:g} at step {step + 1} ({', '.join(broken) or 'the weighted sum'}); "
            f"lower the learning rate (now {self._optimizer_settings.learning_rate:g}) or check the teacher and the "
            "data; the last checkpoint before it was kept"
        )

    def _named(self) -> _Named:
        return _Named(self._title)


class _Named:
    """Puts a training's name before what goes wrong in it."""

    def __init__(self, title: str) -> None:
        self._title = title

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EdgestillError) and not str(error).startswith(f"{self._title}: "):
            raise type(error)(f"{self._title}: {error}") from error


def half_precision(device: torch.device) -> torch.dtype | None:
    """Half precision that the device computes faster in; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= AMPERE else torch.float16


def _class_weights(
    asked: ClassWeights | None, dataset: Dataset, context: Context, device: torch.device
) -> torch.Tensor | None:
    if asked is None:
        return None
    classes = len(dataset.classes)
    counts = context.task.class_counts(dataset.labels(dataset.indices("train")), classes)
    if len(counts) == 0:
        raise RecipeError(f"class_weights: the task {context.task.name} has no classes; take it out")
    if asked != "balanced":
        if len(asked) != classes:
            raise RecipeError(f"class_weights has {len(asked)} values, the data {classes} classes; give one for each")
        return torch.tensor(asked, dtype=torch.float32, device=device)
    # A class that never occurs weighs nothing, and does not change the others' weights.
    weights = np.where(counts > 0, counts.sum() / np.maximum(counts, 1), 0.0)
    return torch.tensor(weights / weights[counts > 0].mean(), dtype=torch.float32, device=device)
