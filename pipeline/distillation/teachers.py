"""One teacher or several, asked for their outputs and features. Imports torch: import it inside functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.distillation.features import Features
from pipeline.distillation.signals import Signals, TeacherSignals
from pipeline.distillation.views import Batch
from pipeline.errors import NotAcceptable, RecipeError
from pipeline.models.interface import named_outputs
from pipeline.tasks.task import Task

AVERAGE, CONFIDENCE = "average", "confidence"


class Teachers:
    """Networks in evaluation mode, frozen; their outputs combined, the first one's features beside."""

    def __init__(
        self, networks: Sequence[nn.Module], task: Task, layers: Sequence[str], combine: str, half: torch.dtype | None
    ) -> None:
        self._networks, self._task, self._combine, self._half = tuple(networks), task, combine, half
        for index, network in enumerate(self._networks):
            _require_evaluation_mode(network, index)
        self._features = Features(self._networks[0], sorted(set(layers)), "teacher")

    def __len__(self) -> int:
        return len(self._networks)

    def ask(self, batch: Batch) -> Signals:
        """Outputs and features for a batch, in the precision they were computed in; raises NotAcceptable for NaN."""
        device = batch.labels.device.type
        # Inference mode spares the bookkeeping of gradients; a clone of what it gives may enter a graph.
        with torch.inference_mode(), torch.autocast(device, dtype=self._half, enabled=self._half is not None):
            outputs = [named_outputs(network(*batch.inputs), self._task.outputs) for network in self._networks]
            features = self._features.take()
            found = self._combined(outputs, batch.labels)
        _require_finite(found)
        return Signals(
            {name: tensor.clone() for name, tensor in found.items()},
            {name: tensor.clone() for name, tensor in features.items()},
        )

    def close(self) -> None:
        """Takes the hooks out of the first network."""
        self._features.close()

    def _combined(self, outputs: Sequence[Mapping[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        if len(outputs) == 1:
            return dict(outputs[0])
        weights = torch.full((len(outputs), len(labels)), 1 / len(outputs), device=labels.device)
        if self._combine == CONFIDENCE:
            weights = confidence_weights([self._losses(each, labels) for each in outputs])
        return {
            name: sum(
                (_along(weight, each[name]) * each[name] for weight, each in zip(weights, outputs, strict=True)),
                start=torch.zeros(()),
            )
            for name in self._task.outputs
        }

    def _losses(self, outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Cross-entropy of each sample's decisions with their labels, (batch,); 0 where it has none."""
        from torch.nn.functional import cross_entropy

        wanted = self._task.label_rows(labels)
        rows = cross_entropy(self._task.logit_rows(outputs).float(), wanted, reduction="none", ignore_index=-1)
        counted = (wanted >= 0).reshape(len(labels), -1).sum(dim=1)
        return rows.reshape(len(labels), -1).sum(dim=1) / counted.clamp(min=1)


def confidence_weights(losses: Sequence[Tensor]) -> Tensor:
    """(teachers, batch), 1 together: (1 - exp(L_k) / sum_j exp(L_j)) / (K - 1).

    Zhang, Chen, Wang, "Confidence-aware multi-teacher knowledge distillation", ICASSP 2022, arXiv 2201.00007, eq. 5.
    """
    stacked = torch.stack(list(losses))
    return (1 - torch.softmax(stacked, dim=0)) / (len(losses) - 1)


class LiveSignals(TeacherSignals):
    """The teachers run at each step, on the batch that the student sees."""

    def __init__(self, teachers: Teachers) -> None:
        self._teachers = teachers

    def of(self, batch: Batch, rows: NDArray[np.int64], view: int) -> Signals:
        del rows, view  # the batch holds them already
        return self._teachers.ask(batch)

    def in_words(self) -> str:
        return "computed at each step"


def _along(weights: Tensor, outputs: Tensor) -> Tensor:
    """(batch,) so that it scales (batch, ...)."""
    return weights.to(outputs.dtype).reshape(-1, *[1] * (outputs.ndim - 1))


def _require_finite(outputs: Mapping[str, Tensor]) -> None:
    for name, tensor in outputs.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NotAcceptable(
                f"the teacher's output '{name}' holds NaN or infinite values on training data; check its weights and "
                "[data] preprocess"
            )


def _require_evaluation_mode(network: nn.Module, index: int) -> None:
    network.eval()
    if training := [name or "the network itself" for name, module in network.named_modules() if module.training]:
        which = "the teacher" if index == 0 else f"teacher {index + 1}"
        raise RecipeError(
            f"{which} stays in training mode after eval(): {', '.join(training[:3])}; dropout and batch norm would "
            "answer another question each time; let its train() set module.training"
        )
