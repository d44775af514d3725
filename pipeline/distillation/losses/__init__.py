"""`LOSSES` is the table that `[[distill.losses]]` chooses from. To add a loss: one file, one line."""

from __future__ import annotations

from pipeline.distillation.losses.attention_maps import AttentionMaps
from pipeline.distillation.losses.attention_transfer import AttentionTransfer
from pipeline.distillation.losses.channel_wise import CWD
from pipeline.distillation.losses.contrastive import CRD
from pipeline.distillation.losses.dist import DIST
from pipeline.distillation.losses.dkd import DKD
from pipeline.distillation.losses.hidden_states import HiddenStates
from pipeline.distillation.losses.hint import Hint
from pipeline.distillation.losses.kd import KD
from pipeline.distillation.losses.label_smoothing import LabelSmoothing
from pipeline.distillation.losses.labels import Labels
from pipeline.distillation.losses.loss import DistillationLoss
from pipeline.distillation.losses.mimic import Mimic
from pipeline.distillation.losses.relational import RKD
from pipeline.distillation.losses.similarity import Similarity
from pipeline.distillation.losses.standardized_kd import StandardizedKD

LOSSES: dict[str, type[DistillationLoss]] = {
    "labels": Labels,
    "label_smoothing": LabelSmoothing,
    "kd": KD,
    "dkd": DKD,
    "dist": DIST,
    "standardized_kd": StandardizedKD,
    "mimic": Mimic,
    "hint": Hint,
    "attention_transfer": AttentionTransfer,
    "similarity": Similarity,
    "rkd": RKD,
    "crd": CRD,
    "cwd": CWD,
    "hidden_states": HiddenStates,
    "attention_maps": AttentionMaps,
}
