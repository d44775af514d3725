"""The epochs that a training has done: what each is worth on validation, which is best, whether to go on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.distillation.training import OnEpoch, State, Training
from pipeline.files import atomic
from pipeline.measuring.predictions import predictions

if TYPE_CHECKING:
    from torch import nn

    from pipeline.distillation.ema import MovingAverage


@final
class Epochs:
    """Of one training; where its weights are averaged, the average is judged and kept."""

    def __init__(
        self,
        network: nn.Module,
        average: MovingAverage | None,
        dataset: Dataset,
        training: Training,
        context: Context,
        title: str,
        on_epoch: OnEpoch | None,
    ) -> None:
        self._network, self._average, self._dataset = network, average, dataset
        self._settings, self._context, self._title, self._on_epoch = training, context, title, on_epoch
        self._validation = dataset.indices("validation")
        self.events: list[dict[str, Any]] = []
        self.best: State = {}
        self.best_epoch = 0
        """Counted from 1; 0 before the first."""

    def close(self, step: int, loss: float, terms: Mapping[str, float], learning_rate: float) -> None:
        """Judges the epoch that ends at this step; the losses are means over it."""
        metric = self._context.world.told(self._judged() if self._context.world.leads else None)
        self.events.append(
            {
                "phase": self._title,
                "epoch": len(self.events) + 1,
                "step": step,
                "loss": loss,
                "terms": dict(terms),
                "learning_rate": learning_rate,
                "validation": metric,
            }
        )
        # Ties go to the later epoch: it has seen the lower learning rate.
        if not self.best_epoch or metric >= self.events[self.best_epoch - 1]["validation"]:
            self.best, self.best_epoch = self._judged_weights(), len(self.events)

    def why_ended(self) -> str:
        """Why the training ends before its last epoch; nothing where it does not."""
        if not self.events:
            return ""
        epoch, metrics = len(self.events), [float(event["validation"]) for event in self.events]
        patience = self._settings.early_stopping
        if epoch == self._settings.epochs:
            return ""
        if self._on_epoch is not None and not self._on_epoch(metrics):
            return "pruned"
        if patience is None:
            return ""
        # A tie is no gain: the first epoch that reached the best counts.
        return "stopped early" if epoch - 1 - metrics.index(max(metrics)) >= patience else ""

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch, "events": self.events}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What `state` gave."""
        self.best, self.best_epoch, self.events = state["best"], state["best_epoch"], state["events"]

    def _judged(self) -> float:
        if self._average is None:
            return self._score()
        with self._average.in_place():
            return self._score()

    def _score(self) -> float:
        found = predictions(self._network, self._dataset, self._validation)
        metric = self._context.task.score(found, self._dataset.labels(self._validation))
        # A user's metric may be anything; NaN would be best for ever.
        return metric if math.isfinite(metric) else -math.inf

    def _judged_weights(self) -> State:
        if self._average is None:
            return copied(self._network)
        with self._average.in_place():
            return copied(self._network)


def copied(network: nn.Module) -> State:
    """Its weights on the CPU, apart from what the network does later."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}


def write_events(path: Path, events: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    atomic.write_text(path, "".join(json.dumps(event) + "\n" for event in events))
