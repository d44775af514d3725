"""How a student learns from a teacher: losses, augmentation, the training loop.

`LOSSES` is the table that `[[distill.losses]]` chooses from. To add a loss: one file, one line.
"""

from __future__ import annotations

from pipeline.distillation.kd import KD
from pipeline.distillation.loss import DistillationLoss

LOSSES: dict[str, type[DistillationLoss]] = {"kd": KD}
