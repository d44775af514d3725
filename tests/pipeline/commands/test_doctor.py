"""`edgestill doctor`: what this machine can do."""

from __future__ import annotations

import pytest
from own_graph import shown

from pipeline.commands.doctor import doctor


@pytest.mark.parametrize("width", [80, 120])
def test_doctor_says_what_this_machine_can_do(width: int) -> None:
    outcome = doctor()
    lines = shown(outcome, width).splitlines()
    assert outcome.exit_code == 0
    assert max(map(len, lines)) <= width
    assert any(line.split()[:1] == ["onnxruntime"] and line.split()[2:] == ["yes", "yes"] for line in lines)
    assert all(f"{name}: " in "\n".join(lines) for name in ("torch", "onnx", "tensorrt_rtx", "pycuda"))
    assert "target '" not in "\n".join(lines)
