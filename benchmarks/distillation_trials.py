"""Which losses are tried on which data sets.

Weights are those of each loss's paper, or of its authors' code, brought to the scale of the formula here; none was
tuned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ALONE = "labels"
LABELS = {"name": "labels"}


def _beside_labels(name: str, weight: float, **settings: Any) -> list[dict[str, Any]]:
    return [LABELS, {"name": name, "weight": weight, **settings}]


def _on_outputs(temperature: float) -> dict[str, list[dict[str, Any]]]:
    """`alpha` of `kd` and its kin is the share of the labels."""
    return {
        "kd": [{"name": "kd", "temperature": temperature, "alpha": 0.1}],
        "kd, half labels": [{"name": "kd", "temperature": temperature, "alpha": 0.5}],
        "dkd": _beside_labels("dkd", 1.0, temperature=temperature),
        "dist": _beside_labels("dist", 1.0),
        "standardized_kd": _beside_labels("standardized_kd", 1.0),
        "mimic": _beside_labels("mimic", 1.0),
        "label_smoothing": [{"name": "label_smoothing"}],
    }


def _on_maps(middle: str, places: int, deep: str) -> dict[str, list[dict[str, Any]]]:
    """Of a layer in the middle, whose maps have so many places, and of the last before the head."""
    maps, embeddings = [{"student": middle, "teacher": middle}], [{"student": deep, "teacher": deep}]
    return {
        "hint": _beside_labels("hint", 100.0, pairs=maps),
        # The authors' code divides by height times width, and weighs the rest 1000.
        "attention_transfer": _beside_labels("attention_transfer", 1000.0 / places, pairs=maps),
        "similarity": _beside_labels("similarity", 3000.0, pairs=embeddings),
        "rkd": _beside_labels("rkd", 1.0, pairs=embeddings),
        "crd": _beside_labels("crd", 0.8, pairs=embeddings),
        "cwd": _beside_labels("cwd", 50.0, pairs=maps, temperature=1.0),
    }


@dataclass(frozen=True)
class Trial:
    """One data set with the student of its built-in recipe."""

    name: str
    recipe: str
    losses: Mapping[str, Sequence[Mapping[str, Any]]]
    share: float = 1.0
    """Of the training samples that the student sees; the teacher has seen all."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """In the recipe's `[distill]`."""


ON_DIGITS = {ALONE: [LABELS], **_on_outputs(4.0), **_on_maps("stages.1", 16, "stages.2")}
BLOCKS = [("blocks.0", "blocks.1"), ("blocks.1", "blocks.2")]
"""Two of the student's against the last two of the teacher's three."""
HIDDEN = [{"student": student, "teacher": teacher} for student, teacher in BLOCKS]
ATTENTION = [
    {
        "student_query": f"{student}.attention.query",
        "student_key": f"{student}.attention.key",
        "student_heads": 2,
        "teacher_query": f"{teacher}.attention.query",
        "teacher_key": f"{teacher}.attention.key",
        "teacher_heads": 4,
    }
    for student, teacher in BLOCKS
]

TRIALS = (
    Trial("digits, all labels", "digits", ON_DIGITS),
    # As many steps as it takes to converge; both students get them.
    Trial("digits, 10 % of the labels", "digits", ON_DIGITS, 0.1, {"batch_size": 16, "epochs": 30}),
    Trial(
        "canvases, segmentation",
        "digit-canvases",
        {
            ALONE: [LABELS],
            **_on_outputs(2.0),
            **_on_maps("encoder.2", 64, "encoder.2"),
            "cwd on logits": _beside_labels("cwd", 3.0, temperature=4.0),
        },
    ),
    Trial(
        "digit rows, sequences",
        "digit-rows",
        {
            ALONE: [LABELS],
            **_on_outputs(2.0),
            "hidden_states": _beside_labels("hidden_states", 1.0, pairs=HIDDEN),
            "attention_maps": _beside_labels("attention_maps", 1.0, pairs=ATTENTION, average_heads=True),
            "kd + hidden_states": [
                {"name": "kd", "temperature": 2.0, "alpha": 0.5},
                {"name": "hidden_states", "weight": 1.0, "pairs": HIDDEN},
            ],
        },
    ),
)
