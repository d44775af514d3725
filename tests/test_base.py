"""A target goes into a document and comes back."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from engines import PRECISIONS
from engines.base import BatchProfile, Target


@pytest.mark.parametrize(
    "target",
    [
        Target("cpu", "onnxruntime"),
        Target("rtx", "tensorrt-rtx", PRECISIONS, ("8.6", "12.0"), BatchProfile(2, 4, 8), 3, 1 << 28, optional=True),
    ],
    ids=lambda target: str(target.name),
)
def test_a_target_comes_back_from_json_as_it_was(target: Target) -> None:
    assert Target.from_json(json.loads(json.dumps(asdict(target)))) == target
