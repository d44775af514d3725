"""Graphs with control flow, functions, foreign operators, several inputs and outputs: quantized where they can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx_networks import images
from tensorrt_graphs import RTX, needs_tensorrt_rtx
from tiny_run import run_edgestill

from calibration import FAMILIES
from calibration.float16_rest import fp8_graph, with_float16_rest
from calibration.placement.place import Placement, place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from engines.audit import summarize
from engines.base import AxisProfile, Target

# The branches read `r`, an activation, and `two`, a constant, of the graph around them.
CONTROL_FLOW = """
<ir_version: 10, opset_import: ["" : 18]>
own (float[N,16,8,8] x, bool c) => (float[N,16,8,8] y, float[N,16,8,8] z) {
  [first] a = Conv<pads = [1,1,1,1]>(x, w1)
  [cut] r = Relu(a)
  [choice] b = If<then_branch = t () => (float[N,16,8,8] t) { t = Mul(r, two) },
                  else_branch = e () => (float[N,16,8,8] e) { e = Identity(r) }>(c)
  [second] d = Conv<pads = [1,1,1,1]>(b, w2)
  [third] y = Conv<pads = [1,1,1,1]>(d, w1)
  [sum] z = Add(r, b)
}
"""
FUNCTIONS = """
<ir_version: 10, opset_import: ["" : 18, "own" : 1]>
own (float[N,16,8,8] x) => (float[N,16,8,8] y) {
  a = own.block(x, w1)
  b = own.block(a, w2)
  [third] y = Conv<pads = [1,1,1,1]>(b, w1)
}
<domain: "own", opset_import: ["" : 18]>
block (i, w) => (o) { c = Conv<pads = [1,1,1,1]>(i, w)  o = Relu(c) }
"""
FOREIGN = """
<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>
own (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
  [first] a = Conv<pads = [1,1,1,1]>(x, w1)
  [second] d = Conv<pads = [1,1,1,1]>(a, w2)
  [foreign] y = com.microsoft.QuickGelu<alpha = 1.7>(d)
  [third] z = Conv<pads = [1,1,1,1]>(a, w1)
}
"""

BEHIND_FOREIGN = """
<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>
own (float[N,16,8,8] x) => (float[N,16,8,8] y) {
  [first] a = Conv<pads = [1,1,1,1]>(x, w1)
  [foreign] b = com.microsoft.QuickGelu<alpha = 1.7>(a)
  [second] c = Conv<pads = [1,1,1,1]>(b, w2)
  [cut] d = Relu(c)
  [third] y = Conv<pads = [1,1,1,1]>(d, w1)
}
"""


def graph(text: str) -> ModelProto:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(text)
    for name in ("w1", "w2"):
        values = (random.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    if "two" in text:
        model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    return model


def feeds(text: str, count: int = 4) -> dict[str, NDArray[np.generic]]:
    found: dict[str, NDArray[np.generic]] = {"x": images(count, 16, 8, 8)}
    return {**found, "c": np.array(True)} if "bool c" in text else found


def run(model: ModelProto, values: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, values))


def sqnr_db(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.sum(wanted**2) / max(float(np.sum((wanted - found) ** 2)), 1e-30)))


def measured(text: str) -> tuple[ModelProto, Ranges]:
    model = prepared(graph(text))
    values = {name: array for name, array in feeds(text).items() if name == "x"}
    if "bool c" in text:  # a scalar has no batch, so the condition is fed as it is by a constant graph
        model = with_condition(model)
    sketches = collect(model, [Batch(list("abcd"), values)], threads=1)
    return model, ranges_from_sketches(sketches, "minmax")


def with_condition(model: ModelProto) -> ModelProto:
    """The graph with its condition as a constant."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.input[1]
    fixed.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    return fixed


def decision(placement: Placement, node: str) -> tuple[bool, str]:
    return next((each.quantized, each.rule) for each in placement.decisions if each.node == node)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text",
    [CONTROL_FLOW, FUNCTIONS, FOREIGN, BEHIND_FOREIGN],
    ids=["control flow", "functions", "foreign", "behind foreign"],
)
def test_the_quantized_graph_answers_like_the_float_one(text: str, family: str) -> None:
    model, ranges = measured(text)
    found = quantize(model, ranges, place(model, family))
    onnx.checker.check_model(found)
    values = {"x": feeds(text)["x"]}
    for wanted, answer in zip(run(model, values), run(found, values), strict=True):
        assert sqnr_db(wanted, answer) > 25


def test_control_flow_stays_float_and_says_so_while_the_convolutions_around_it_are_quantized() -> None:
    model, _ = measured(CONTROL_FLOW)
    placement = place(model, "tensorrt-rtx")
    assert decision(placement, "choice") == (False, "control-flow")
    assert decision(placement, "first") == decision(placement, "second") == (True, "both-operands")


def test_what_only_a_branch_reads_is_measured_too(tmp_path: Path) -> None:
    text = CONTROL_FLOW.replace("[sum] z = Add(r, b)", "[sum] z = Add(d, b)")
    onnx.save(graph(text), tmp_path / "own.onnx")
    np.savez(tmp_path / "x.npz", **feeds(text))  # type: ignore[arg-type] # its stub has another keyword
    done = run_edgestill(*("quantize", tmp_path / "own.onnx", "--data", tmp_path / "x.npz", "--family", "tensorrt"))
    assert done.returncode == 0, done.stderr
    ranges = Ranges.load(tmp_path / "own.ranges.json")
    assert ranges.of("b").high == pytest.approx(2 * ranges.of("r").high)


def test_what_a_subgraph_reads_keeps_its_name_and_type_in_half_precision() -> None:
    model, ranges = measured(CONTROL_FLOW)
    half, kept = with_float16_rest(quantize(model, ranges, place(model, "tensorrt-rtx")), model, ranges)
    assert kept["choice"] == "If holds a subgraph, which stays as it is"
    assert kept["cut"] == "the subgraph of another node reads it in float32"
    values = {"x": feeds(CONTROL_FLOW)["x"]}
    for wanted, answer in zip(run(model, values), run(half, values), strict=True):
        assert sqnr_db(wanted, answer) > 25


def test_functions_are_inlined_and_what_they_hold_is_quantized() -> None:
    model = prepared(graph(FUNCTIONS))
    assert not model.functions
    placement = place(model, "cpu-vnni")
    assert sum(each.quantized and each.operator == "Conv" for each in placement.decisions) == 2


def test_a_foreign_operator_stays_float_and_says_so() -> None:
    placement = place(prepared(graph(FOREIGN)), "tensorrt-rtx")
    assert decision(placement, "foreign") == (False, "unknown-operator")
    (said,) = [each.reason for each in placement.decisions if each.node == "foreign"]
    assert said.startswith("com.microsoft.QuickGelu is no operator of ONNX")
    assert decision(placement, "first") == (True, "both-operands")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_behind_a_foreign_operator_is_quantized_as_if_it_were_any_other(family: str) -> None:
    model = prepared(graph(BEHIND_FOREIGN))
    placement = place(model, family)
    assert [decision(placement, node)[0] for node in ("first", "foreign", "second", "third")] == [
        *(True, False, True),
        False,  # the output head
    ]
    assert prepared(model) == model


@pytest.mark.parametrize("opset", [18, 19])
def test_in_half_precision_a_q_behind_a_foreign_operator_reads_half_precision(opset: int) -> None:
    text = BEHIND_FOREIGN.replace('"" : 18', f'"" : {opset}')
    model, ranges = measured(text)
    placement, values = place(model, "tensorrt"), {"x": feeds(text)["x"]}
    forms = {
        25: with_float16_rest(quantize(model, ranges, placement), model, ranges)[0],
        20: fp8_graph(model, ranges, placement, ranges)[0],
    }
    for least_db, form in forms.items():
        assert sqnr_db(run(model, values)[0], run(form, values)[0]) > least_db


def test_behind_an_operator_that_nobody_knows_all_stays_float_and_the_rest_does_not() -> None:
    unknown = BEHIND_FOREIGN.replace("com.microsoft", "my.own").replace("QuickGelu<alpha = 1.7>", "Frob")
    placement = place(prepared(graph(unknown)), "tensorrt")
    assert decision(placement, "first") == (True, "both-operands")
    assert decision(placement, "second") == (False, "not-float32")


@needs_tensorrt_rtx
def test_tensorrt_builds_around_control_flow_in_int8(tmp_path: Path) -> None:
    model, ranges = measured(CONTROL_FLOW)
    onnx.save(quantize(model, ranges, place(model, "tensorrt-rtx")), tmp_path / "own.onnx")
    target = Target("rtx", "tensorrt-rtx", batch=AxisProfile(1, 2, 4))
    audit = summarize(RTX.build(tmp_path / "own.onnx", "int8", target, tmp_path / "own.plan").layers)
    assert {"first", "second"} & set(audit.float_products) == set()


def test_the_command_says_what_stays_float(tmp_path: Path) -> None:
    onnx.save(graph(FOREIGN), tmp_path / "own.onnx")
    np.savez(tmp_path / "x.npz", x=images(4, 16, 8, 8))
    done = run_edgestill(
        *("quantize", tmp_path / "own.onnx", "--data", tmp_path / "x.npz", "--family", "tensorrt-rtx", "--explain")
    )
    assert done.returncode == 0, done.stderr
    assert "float foreign (QuickGelu): com.microsoft.QuickGelu is no operator of ONNX" in done.stdout
