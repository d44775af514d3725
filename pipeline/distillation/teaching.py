"""Sets up what the student is shown of its teachers: live, or from a cache that is made first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.artifact import Artifact, Artifacts, Splits, Teacher, teacher_files
from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.signals import NoTeacher, TeacherSignals
from pipeline.distillation.teacher_cache import (
    CacheSettings,
    Kept,
    TeacherCache,
    cache_folder,
    size_bytes,
    why_not_cached,
    written_cache,
)
from pipeline.distillation.training import Training
from pipeline.distillation.views import Batches, Views
from pipeline.errors import RecipeError
from pipeline.files.digest import sha256_of_file
from pipeline.models.weights import teacher_networks

if TYPE_CHECKING:
    from pipeline.distillation.teachers import Teachers


class Teaching:
    """Use it as a context manager: the teachers' hooks are taken out at its end."""

    def __init__(
        self,
        terms: Sequence[DistillationLoss],
        combine: str,
        cache: CacheSettings,
        dataset: Dataset,
        training: Training,
        inputs: Artifacts,
        context: Context,
    ) -> None:
        self._terms, self._combine, self._cache = tuple(terms), combine, cache
        self._dataset, self._training, self._inputs, self._context = dataset, training, inputs, context
        self._views = Views(training.augment, context.seed, len(dataset.indices("train")), training.views)
        self._teachers: Teachers | None = None
        self.count = 0

    def __enter__(self) -> Teaching:
        if any(term.needs_teacher for term in self._terms):
            self._teachers = self._made()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._teachers is not None:
            self._teachers.close()

    def signals(self, trials: int) -> TeacherSignals:
        """For so many trainings; raises NotAcceptable for a teacher that answers NaN, ResourceExhausted, Cancelled."""
        from pipeline.distillation.teachers import LiveSignals

        if self._teachers is None:
            return NoTeacher()
        place = self._context.world.device()
        import torch

        batches = Batches(self._dataset, self._views, self._context.task.dense, place, torch.float32)
        kept = Kept(self._views.count(self._training.epochs), self._training.epochs, trials, self._identity())
        folder = cache_folder(self._context.cache, kept, self._cache)
        why = self._context.world.told(self._why_not_cached(batches, kept) if self._context.world.leads else None)
        if why is not None:
            self._context.say(f"teacher outputs: computed at each step ({why})")
            return LiveSignals(self._teachers)
        if self._context.world.leads:
            written_cache(folder, self._teachers, batches, kept, self._cache, self._context)
        self._context.world.wait()
        cached = TeacherCache(folder, kept)
        self._context.say(f"teacher outputs: {cached.in_words()}")
        return cached

    def _why_not_cached(self, batches: Batches, kept: Kept) -> str | None:
        if self._teachers is None:
            return None
        rows = np.arange(min(8, len(batches)), dtype=np.int64)
        signals = self._teachers.ask(batches.of(rows, 0))
        needed = size_bytes(signals, len(rows), len(batches), kept.views, self._cache, self._context)
        return why_not_cached(self._cache, kept, needed, cache_folder(self._context.cache, kept, self._cache))

    def _made(self) -> Teachers:
        import torch

        from pipeline.distillation.stepper import half_precision
        from pipeline.distillation.teachers import Teachers

        device = self._context.world.device()
        networks = [network.to(device) for network in teacher_networks(self._inputs[Teacher], self._context)]
        self.count = len(networks)
        if self.count > 1 and self._combine == "confidence" and not self._context.task.has_logits:
            raise RecipeError(
                f"[distill] combine = 'confidence' weighs teachers by their cross-entropy, and the task "
                f"{self._context.task.name} has no logits; take 'average'"
            )
        layers = [layer for term in self._terms for layer in term.teacher_layers()]
        half: torch.dtype | None = half_precision(device) if self._training.mixed_precision else None
        return Teachers(networks, self._context.task, layers, self._combine, half)

    def _identity(self) -> dict[str, Any]:
        import torch

        return {
            "teachers": [_digests(self._inputs[Teacher], teacher_files(index)) for index in range(self.count)],
            "data": _digests(self._inputs[Splits], ("splits.json", "preprocess.json", "inputs.json", "augment.json")),
            "seed": self._context.seed,
            "threads": self._context.threads,
            "views": self._training.views,
            "combine": self._combine,
            "layers": sorted({layer for term in self._terms for layer in term.teacher_layers()}),
            "torch": torch.__version__,
            "device": str(self._context.world.device().type),
            "mixed_precision": self._training.mixed_precision,
        }


def _digests(artifact: Artifact, names: Iterable[str]) -> dict[str, str]:
    return {name: sha256_of_file(artifact.path(name)) for name in names}
