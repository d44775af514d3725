"""A training for `torchrun`, or for one process: 20 steps in float64, every kind of term; it leaves a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from small_training import CLASSES, context_in, dataset_in
from torch import nn

from pipeline.distillation.augment import Augment
from pipeline.distillation.losses.dist import DIST
from pipeline.distillation.losses.hint import Hint
from pipeline.distillation.losses.kd import KD
from pipeline.distillation.losses.loss import LayerPair
from pipeline.distillation.losses.relational import RKD
from pipeline.distillation.losses.similarity import Similarity
from pipeline.distillation.optimizer import Optimizer
from pipeline.distillation.signals import Signals, TeacherSignals
from pipeline.distillation.trainer import fit
from pipeline.distillation.training import Lesson, Training
from pipeline.distillation.views import Batch
from pipeline.networks.plain import PlainNetwork
from pipeline.process.torch_state import set_up_torch
from pipeline.process.world import asked_world, joined

PAIRS = (LayerPair(student="stages.1", teacher="maps"),)
TERMS = (KD(), DIST(), Hint(pairs=PAIRS), RKD(pairs=PAIRS), Similarity(pairs=PAIRS))


class Known(TeacherSignals):
    """The same answers for the same images, whatever batch they are in."""

    def of(self, batch: Batch, rows: NDArray[np.int64], view: int) -> Signals:
        del rows, view
        (images,) = batch.inputs
        return Signals({"logits": images.flatten(1)[:, :CLASSES]}, {"maps": images[:, :, ::2, ::2].repeat(1, 4, 1, 1)})

    def in_words(self) -> str:
        return "a test's"


def with_group_norm() -> PlainNetwork:
    """Batch norm would see each process's part alone."""
    network = PlainNetwork(1, [4, 8], CLASSES)
    for stage, width in zip(network.stages, (4, 8), strict=True):
        assert isinstance(stage, nn.Sequential)
        stage[1] = nn.GroupNorm(2, width)
    return network.double()


def main() -> None:
    """`distributed_training.py DATA TO`: DATA holds what `dataset_in` reads, TO is where the leader writes."""
    data, to = Path(sys.argv[1]), Path(sys.argv[2])
    with joined(asked_world()) as world:
        folder = data / f"rank{world.rank}"
        folder.mkdir(parents=True, exist_ok=True)
        dataset = dataset_in(folder)
        context = replace(context_in(folder), world=world)
        set_up_torch(context)
        training = Training(5, 8, Optimizer(name="sgd", learning_rate=0.05), Augment(rotate_degrees=10))
        done = fit(with_group_norm(), dataset, Lesson(TERMS, Known()), training, context, "student")
        if world.leads:
            torch.save({"weights": done.last, "loss": [event["loss"] for event in done.events]}, to)


if __name__ == "__main__":
    main()
