"""`[build.audit]` and `edgestill audit`: what an engine must really be, and why it is what it is."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from small_training import invoke
from tensorrt_graphs import QUANTIZED, needs_tensorrt_rtx, quantization, weights, written

from engines.audit import Audit
from pipeline.building.auditing import AuditGates, Opponent, audit_failures
from pipeline.commands.audit import audit
from pipeline.errors import IntegrityError, RecipeError
from pipeline.files.manifest import MANIFEST, Manifest, outputs_of

HALF = Audit(10, 3, 0, 3, 0, 0, ("a", "b", "head"), 1_000_000, multiply_adds=100)
INT8 = Audit(15, 3, 2, 0, 1, 0, ("head",), 1_900_000, multiply_adds=100, int8_multiply_adds=80)


def failures(opponent: Opponent | None = None, **gates: object) -> list[str]:
    return list(audit_failures(AuditGates.model_validate(gates), INT8, opponent or Opponent(HALF)))


def test_an_engine_within_all_gates_passes() -> None:
    assert failures(allowed_float=("he*",), min_quantized_share=0.8, max_bytes_ratio_to_fp16=2.0) == []
    assert failures() == []


def test_each_gate_that_does_not_hold_names_the_layers_or_the_figures() -> None:
    assert failures(allowed_float=()) == ["head run in float, and allowed_float does not name them"]
    assert failures(min_quantized_share=0.9) == [
        "80.0% of its multiply-adds are quantized, min_quantized_share asks for 90.0%; in float: head"
    ]
    assert failures(max_bytes_ratio_to_fp16=1.0) == [
        "it moves 1.90 times the activation bytes of FP16 (1.9 MB against 1 MB a sample), "
        "max_bytes_ratio_to_fp16 allows 1"
    ]


def test_bytes_that_have_no_opponent_fail_the_gate_rather_than_pass_it() -> None:
    said = failures(Opponent(reason="no FP16 graph"), max_bytes_ratio_to_fp16=9.0)
    assert said == ["max_bytes_ratio_to_fp16 cannot be judged: no FP16 graph"]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    graph = written(tmp_path, QUANTIZED, weights() | quantization())
    half = onnx.load(graph)
    onnx.save(half, tmp_path / "half.onnx")
    outcome = invoke("build", graph, "--target", "rtx-portable", "--precision", "int8", "--out", tmp_path / "e.plan")
    assert outcome.exit_code == 0, outcome.stderr
    return tmp_path / "e.plan"


@needs_tensorrt_rtx
def test_the_command_explains_an_engine_that_build_wrote(engine: Path) -> None:
    shown = invoke("audit", engine)
    assert shown.exit_code == 0
    assert "e.plan: int8, 5 kernels, 2 convolutions and products: 2 in INT8 (100.00% of multiply-adds" in shown.stdout
    assert "float-copy: 1 kernel, " in shown.stdout
    assert "remedy: let all readers of the tensor, such as a residual add, share one DequantizeLinear" in shown.stdout
    document = json.loads(invoke("audit", engine, "--json").stdout)
    assert {each["pattern"] for each in document["patterns"]} >= {"float-copy", "float-result"}
    assert "layers" not in document


@needs_tensorrt_rtx
def test_an_audit_is_of_its_own_engine_alone(engine: Path, tmp_path: Path) -> None:
    engine.write_bytes(engine.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match=r"e\.plan: SHA-256 is .*; build the engine again"):
        audit(engine)
    (tmp_path / "e.plan.audit.json").unlink()
    with pytest.raises(RecipeError, match="no audit is beside it"):
        audit(engine)
    with pytest.raises(RecipeError, match="there is no such file"):
        audit(tmp_path / "none.plan")


@needs_tensorrt_rtx
def test_an_engine_of_a_workspace_is_held_against_the_manifest(engine: Path, tmp_path: Path) -> None:
    built = tmp_path / "05-build"
    plan = built / "rtx" / "int8.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(engine.read_bytes())
    record = json.loads((tmp_path / "e.plan.audit.json").read_text())
    (built / "audit.json").write_text(json.dumps({"rtx/int8": record}))
    Manifest("build", "k", {}, outputs_of(built), 1.0, None, {}, {}).write(built)
    assert audit(plan).document["precision"] == "int8"
    (built / "audit.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"audit\.json: SHA-256 is"):
        audit(plan)
    (built / MANIFEST).write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        audit(plan)


@needs_tensorrt_rtx
def test_the_opponent_is_the_fp16_graph_that_is_given(engine: Path, tmp_path: Path) -> None:
    graph = tmp_path / "half.onnx"
    common = ("--target", "rtx-portable", "--out", tmp_path / "f.plan", "--json")
    wrong = invoke("build", tmp_path / "half.onnx", "--precision", "fp32", "--fp16", graph, *common)
    assert "--fp16 is for the audit of int8, int8+fp16, fp8; leave it out" in wrong.stderr
    # A graph in INT8 is no FP16 opponent, and is not taken for one.
    other = invoke("build", graph, "--precision", "int8", "--fp16", graph, *common)
    assert other.exit_code == 1
    assert "fp16 was asked for, and 2 of its 2 products run in INT8" in other.stderr
