"""A target goes into a document and comes back."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from engines import PRECISIONS
from engines.base import AxisProfile, Target
from engines.builder_options import BuilderOptions


@pytest.mark.parametrize(
    "target",
    [
        Target("cpu", "onnxruntime"),
        Target(
            "rtx",
            "tensorrt-rtx",
            PRECISIONS,
            ("8.6", "12.0"),
            AxisProfile(2, 4, 8),
            {"length": AxisProfile(1, 2, 3)},
            ({"batch": AxisProfile(16, 16, 16)},),
            18,
            BuilderOptions(1 << 28, 5, dla_core=1),
            3,
            optional=True,
        ),
    ],
    ids=lambda target: str(target.name),
)
def test_a_target_comes_back_from_json_as_it_was(target: Target) -> None:
    assert Target.from_json(json.loads(json.dumps(asdict(target)))) == target
