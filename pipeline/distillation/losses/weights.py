"""How much each term counts at a point of the training, and what each is called."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.distillation.losses.loss import DistillationLoss


def weight_at(term: DistillationLoss, epoch: float, epochs: int) -> float:
    """Of a term, `epoch` epochs into a training of `epochs`."""
    schedule = term.schedule
    if epoch < schedule.warm_up_epochs:
        return term.weight * epoch / schedule.warm_up_epochs
    if schedule.decay == "none":
        return term.weight
    done = min(1.0, (epoch - schedule.warm_up_epochs) / max(epochs - schedule.warm_up_epochs, 1e-9))
    left = 1 - done if schedule.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return term.weight * (schedule.decay_to + (1 - schedule.decay_to) * left)


def schedule_in_words(term: DistillationLoss) -> str:
    """`rises over 2 epochs, then falls to 0.1 (cosine)`; nothing where the weight is constant."""
    schedule, parts = term.schedule, []
    if schedule.warm_up_epochs:
        parts.append(f"rises over {schedule.warm_up_epochs:g} epochs")
    if schedule.decay != "none":
        parts.append(f"falls to {schedule.decay_to:g} of it ({schedule.decay})")
    return ", then ".join(parts)


def term_names(terms: Sequence[DistillationLoss]) -> tuple[str, ...]:
    """`kd`, `hint`, `hint-2`: each term by its loss, numbered from its second use on."""
    found: list[str] = []
    for term in terms:
        earlier = sum(other.name == term.name for other in terms[: len(found)])
        found.append(f"{term.name}-{earlier + 1}" if earlier else term.name)
    return tuple(found)
