"""What the losses on intermediate representations refuse, and what they say."""

from __future__ import annotations

from typing import Any

import pytest
from feature_cases import (
    KEY,
    MASK,
    PAIRS,
    QUERY,
    Case,
    attention,
    case,
)
from pydantic import ValidationError

from pipeline.distillation.losses import LOSSES
from pipeline.distillation.losses.attention_transfer import AttentionTransfer
from pipeline.distillation.losses.channel_wise import CWD
from pipeline.distillation.losses.contrastive import CRD
from pipeline.distillation.losses.hidden_states import HiddenStates
from pipeline.distillation.losses.hint import Hint
from pipeline.distillation.losses.relational import RKD
from pipeline.distillation.losses.similarity import Similarity
from pipeline.errors import RecipeError

REFUSED = {
    "hint: nothing bridges": (case(Hint(pairs=PAIRS), (3, 4, 4), (3,)), "nothing bridges these"),
    "hint: channels": (case(Hint(pairs=PAIRS, adapter="none"), (3,), (4,)), 'write adapter = "learned"'),
    "hint: lengths": (case(Hint(pairs=PAIRS), (5, 3), (4, 3)), "sequences of unequal length"),
    "hint: mask": (case(Hint(pairs=PAIRS), (6, 3), (6, 3), MASK), r"the padding's mask is \(4, 5\)"),
    "attention_transfer: kind": (
        case(AttentionTransfer(pairs=PAIRS), (3,), (3,)),
        r"name layers that give \(batch, channels, height, width\)",
    ),
    "similarity: kind": (case(Similarity(pairs=PAIRS), (), (3,)), "name layers that give"),
    "similarity: mask": (case(Similarity(pairs=PAIRS), (6, 3), (3,), MASK), "the padding's mask is"),
    "rkd: kind": (case(RKD(pairs=PAIRS), (3, 2, 2, 2), (3,)), "name layers that give"),
    "crd: kind": (case(CRD(pairs=PAIRS), (3, 2, 2, 2), (3,)), "name layers that give"),
    "cwd: kind": (case(CWD(pairs=PAIRS), (3,), (3,)), "name layers that give"),
    "cwd: outputs": (
        Case(CWD(), {"logits": (3, 4, 4)}, {"logits": (4, 4, 4)}),
        "outputs must have the same classes; name pairs of layers, or mend the networks",
    ),
    "hidden_states: kind": (
        case(HiddenStates(pairs=PAIRS), (3, 4, 4), (3, 4, 4)),
        r"name layers that give \(batch, length, channels\)",
    ),
    "hidden_states: lengths": (case(HiddenStates(pairs=PAIRS), (5, 3), (4, 3)), "sequences of unequal length"),
    "attention_maps: kind": (
        Case(attention(), {QUERY: (4,), KEY: (4,)}, {QUERY: (4,), KEY: (4,)}),
        r"name layers that give \(batch, length, channels\)",
    ),
    "attention_maps: lengths": (
        Case(attention(), {QUERY: (5, 4), KEY: (5, 4)}, {QUERY: (5, 4), KEY: (6, 4)}),
        "student layer 'k' gives .* sequences of unequal length",
    ),
    "attention_maps: heads": (
        Case(attention(3, 3), {QUERY: (5, 4), KEY: (5, 4)}, {QUERY: (5, 6), KEY: (5, 6)}),
        "queries of layer 'q' have 4 channels, its keys 4; both must be the same multiple of its 3 heads",
    ),
    "attention_maps: keys": (
        Case(attention(), {QUERY: (5, 4), KEY: (5, 2)}, {QUERY: (5, 6), KEY: (5, 6)}),
        "queries of layer 'q' have 4 channels, its keys 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_shapes_that_cannot_be_compared_are_refused_by_name(name: str) -> None:
    one, said = REFUSED[name]
    seen = one.seen(0)
    loss = name.partition(":")[0]
    with pytest.raises(RecipeError, match=said) as refusal:
        one.loss.value(seen, one.learned(seen))
    assert str(refusal.value).startswith(f"[distill] {loss}: ")


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"name": "hint"}, "Field required"),
        ({"name": "hint", "pairs": []}, "at least 1 item"),
        ({"name": "hint", "pairs": [{"student": "", "teacher": "t"}]}, "at least 1 character"),
        ({"name": "hint", "pairs": [{"student": "s", "teacher": "t"}], "layer": "s"}, "Extra inputs"),
        (
            {"name": "rkd", "pairs": PAIRS, "distance_weight": 0, "angle_weight": 0},
            "are both 0, so nothing is asked for",
        ),
        ({"name": "rkd", "pairs": PAIRS, "angle_weight": -1}, "greater than or equal to 0"),
        ({"name": "cwd", "temperature": 0}, "greater than 0"),
        ({"name": "crd", "pairs": PAIRS, "temperature": 0}, "greater than 0"),
        ({"name": "crd", "pairs": PAIRS, "negatives": 0}, "greater than or equal to 1"),
        ({"name": "crd", "pairs": PAIRS, "momentum": 1}, "less than 1"),
        ({"name": "attention_maps", "pairs": []}, "at least 1 item"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LOSSES[settings_["name"]].model_validate(settings_)


def test_heads_without_a_partner_are_refused() -> None:
    with pytest.raises(ValidationError, match="'q' has 2 heads and 'q' has 3, so no head has a partner") as refusal:
        attention(2, 3)
    assert "write average_heads = true" in str(refusal.value)
