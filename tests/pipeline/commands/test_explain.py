"""`edgestill quantize --explain`: why each node is quantized or not, and whose rule it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_networks import attention, residual
from tiny_run import run_edgestill

from calibration import FAMILIES
from calibration.placement.place import place
from calibration.placement.rules import RULES
from calibration.prepare import prepared


@pytest.mark.parametrize("family", FAMILIES)
def test_every_decision_names_a_rule_that_has_a_pattern_a_source_and_versions(family: str) -> None:
    for network in (residual(), attention()):
        placement = place(prepared(network), family, {"node_logits": "it is dear"})
        assert {decision.rule for decision in placement.decisions} <= RULES.keys()
        assert {rule.name for rule in placement.rules} == {decision.rule for decision in placement.decisions}
        assert placement.decisions[-1].rule == "spared"
        assert placement.decisions[-1].reason == "it is dear"
        document = json.loads(json.dumps(placement.to_json()))
        assert all(document["rules"][decision["rule"]]["source"] for decision in document["decisions"])


def test_rules_are_complete_and_named_as_they_are_found() -> None:
    for name, rule in RULES.items():
        assert rule.name == name
        assert rule.pattern
        assert rule.reason
        assert rule.source
        assert rule.versions


def test_explain_needs_no_data_and_writes_nothing(tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "net.onnx")
    done = run_edgestill("quantize", tmp_path / "net.onnx", "--family", "tensorrt-rtx", "--explain")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "tensorrt-rtx: 10 of 21 nodes in INT8"
    assert lines[1] == "  int8  node_conv_0 (Conv): both operands in INT8 [both-operands]"
    fused = "fused with the kernel of the operator before it, or with the one that requantizes"
    assert lines[2] == f"  float node_relu_1 (Relu): {fused} [fused-activation]"
    (rule,) = [line for line in lines if line.startswith("  rule residual-skip: ")]
    assert "source: NVIDIA, 'Q/DQ placement recommendations'" in rule
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_explain_with_data_writes_the_graphs_and_says_the_same(tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", image=np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32))
    alone = run_edgestill("quantize", tmp_path / "net.onnx", "--family", "cpu-vnni", "--explain").stdout
    done = run_edgestill(
        *("quantize", tmp_path / "net.onnx", "--family", "cpu-vnni", "--explain"),
        *("--data", tmp_path / "x.npz", "--method", "minmax"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(alone)
    assert (tmp_path / "net.cpu-vnni.int8.onnx").exists()
