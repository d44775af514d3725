"""The student and the terms of its loss as one module, so that distribution and checkpoints see all that is trained.

Imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.distillation.features import Features
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.weights import term_names, weight_at
from pipeline.distillation.seen import Seen
from pipeline.distillation.signals import Signals
from pipeline.distillation.views import Batch
from pipeline.errors import RecipeError, ResourceExhausted, is_out_of_memory
from pipeline.models.interface import MASK, named_outputs
from pipeline.process.world import World
from pipeline.tasks.task import Task


class Learner(nn.Module):
    """Runs the network on a batch and weighs the terms: the value of each, and their sum."""

    def __init__(
        self,
        network: nn.Module,
        terms: Sequence[DistillationLoss],
        task: Task,
        input_names: Sequence[str],
        samples: int,
        epochs: int,
        world: World,
        half: torch.dtype | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.learned = nn.ModuleDict()
        self.term_names = term_names(terms)
        self._terms, self._task, self._world = tuple(terms), task, world
        self._samples, self._epochs, self._half, self._class_weights = samples, epochs, half, class_weights
        self._mask = input_names.index(MASK) if MASK in input_names else None
        layers = sorted({layer for term in terms for layer in term.student_layers()})
        self._features = Features(network, layers, "student")

    def prepare(self, batch: Batch, signals: Signals) -> None:
        """Builds what the terms learn, from the shapes of a first batch; the network is left as it was."""
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            seen = self._seen(batch, signals)
        self.network.train(training)
        for name, term in zip(self.term_names, self._terms, strict=True):
            module = term.learned(seen)
            if module is not None:
                self.learned[name] = module.to(seen.labels.device)

    def forward(self, batch: Batch, signals: Signals, epoch: float) -> tuple[Tensor, Tensor]:
        """(the weighted sum, each term's own value without gradient) at a point of the training, in epochs."""
        seen = self._seen(batch, signals)
        whole: Seen | None = None
        values = []
        for name, term in zip(self.term_names, self._terms, strict=True):
            shown = seen
            if self._needs_whole_batch(term, seen):
                shown = whole = _gathered(seen, self._world) if whole is None else whole
            learned = self.learned[name] if name in self.learned else None  # noqa: SIM401 a ModuleDict has no get
            values.append(term.value(shown, learned))
        weights = [weight_at(term, epoch, self._epochs) for term in self._terms]
        total = torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()
        return total, torch.stack([value.detach() for value in values])

    def close(self) -> None:
        """Takes the hooks out of the network."""
        self._features.close()

    def _seen(self, batch: Batch, signals: Signals) -> Seen:
        outputs = _widened(self._outputs(batch.inputs))
        return Seen(
            student=outputs,
            teacher=_widened(signals.outputs, next(iter(outputs.values())).dtype),
            student_features=_widened(self._features.take()),
            teacher_features=_widened(signals.features, next(iter(outputs.values())).dtype),
            labels=batch.labels,
            rows=batch.rows,
            samples=self._samples,
            task=self._task,
            mask=None if self._mask is None else batch.inputs[self._mask],
            class_weights=self._class_weights,
        )

    def _outputs(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        try:
            with torch.autocast(inputs[0].device.type, dtype=self._half, enabled=self._half is not None):
                found = self.network(*inputs)
            return named_outputs(found, self._task.outputs)
        except Exception as error:  # a network of the user's may raise anything
            if is_out_of_memory(error):
                raise ResourceExhausted(f"{error}; lower batch_size and run again") from error
            shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
            mode = "training" if self.network.training else "evaluation"
            raise RecipeError(
                f"the network raised {type(error).__name__} in {mode} mode on a batch of shape {shapes}: {error}"
            ) from error

    def _needs_whole_batch(self, term: DistillationLoss, seen: Seen) -> bool:
        """Whether the mean over a batch is not the mean of what its parts give."""
        divides_by_count = seen.mask is not None or self._task.leaves_out or seen.class_weights is not None
        return self._world.size > 1 and (not term.over_samples or divides_by_count)


def _widened(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Half precision as float32: losses are computed there whatever the networks computed in."""
    found = {}
    for name, tensor in tensors.items():
        wanted = dtype or (torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype)
        found[name] = tensor.to(wanted) if tensor.is_floating_point() else tensor
    return found


def _gathered(seen: Seen, world: World) -> Seen:
    """The batch of all processes, the same on each; gradients find their way back."""
    return replace(
        seen,
        student={name: world.whole(tensor) for name, tensor in seen.student.items()},
        teacher={name: world.whole(tensor) for name, tensor in seen.teacher.items()},
        student_features={name: world.whole(tensor) for name, tensor in seen.student_features.items()},
        teacher_features={name: world.whole(tensor) for name, tensor in seen.teacher_features.items()},
        labels=world.whole(seen.labels),
        rows=world.whole(seen.rows),
        mask=None if seen.mask is None else world.whole(seen.mask),
    )
