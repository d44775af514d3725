"""Which products stay in float on a CPU because 8 bits would be slower: a minimum cut, against trying all."""

from __future__ import annotations

import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from onnx_networks import NetworkBuilder, attention, residual
from own_graph import quantized, saved

from calibration.graph import Graph, attribute
from calibration.placement.min_cut import Labelling
from calibration.placement.place import place
from calibration.prepare import prepared

COSTS = st.floats(0, 10)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(COSTS, COSTS), min_size=1, max_size=6), st.data())
def test_the_cut_is_as_cheap_as_the_best_labelling(costs: list[tuple[float, float]], data: st.DataObject) -> None:
    size = len(costs)
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, size - 1)] * 2, COSTS), max_size=10))
    labelling = Labelling()
    variables = [labelling.variable(*cost) for cost in costs]
    for first, second, cost in pairs:
        labelling.differ(variables[first], variables[second], cost)

    def total(firsts: tuple[bool, ...]) -> float:
        alone = sum(cost[0] if first else cost[1] for cost, first in zip(costs, firsts, strict=True))
        return float(alone + sum(cost for a, b, cost in pairs if firsts[a] and not firsts[b]))

    chosen = labelling.cheapest()
    found = total(tuple(variable in chosen for variable in variables))
    assert math.isclose(found, labelling.cost, abs_tol=1e-6)
    assert math.isclose(found, min(map(total, product((True, False), repeat=size))), abs_tol=1e-6)


def test_a_forbidden_label_is_not_given() -> None:
    labelling = Labelling()
    never, likes = labelling.variable(math.inf, 5.0), labelling.variable(0.0, 3.0)
    labelling.differ(likes, never, 1.0)
    assert labelling.cheapest() == {likes}


def inverted(activation: str, size: int) -> ModelProto:
    """Pointwise, depthwise, pointwise, with an activation behind the first two, twice; then a wide convolution."""
    net = NetworkBuilder()
    least, most = net.weight(np.array(0, np.float32)), net.weight(np.array(6, np.float32))

    def active(x: str) -> str:
        return net.node("Clip", x, least, most) if activation == "Clip" else net.node(activation, x)

    x = net.conv("image", 3, 16)
    for _ in range(2):
        inner = active(net.conv(x, 16, 32, kernel=1))
        x = net.conv(active(net.conv(inner, 32, 32, group=32)), 32, 16, kernel=1)
    x = net.node("Relu", net.conv(net.node("Relu", net.conv(x, 16, 64, stride=4)), 64, 64))
    net.linear(net.spatial_mean(x), 64, 8, output="logits")
    return net.model({"image": ["batch", 3, size, size]}, {"logits": ["batch", 8]})


def in_float(model: ModelProto, family: str) -> set[str]:
    decisions = place(prepared(model), family).decisions
    return {decision.node for decision in decisions if decision.rule == "faster-in-float"}


@pytest.mark.parametrize("family", ["cpu-avx2", "cpu-vnni", "cpu-arm64"])
def test_depthwise_convolutions_between_hard_swishes_stay_float_and_wide_ones_do_not(family: str) -> None:
    model = inverted("HardSwish", 56)
    convolutions = [node for node in Graph(prepared(model)).nodes if node.op_type == "Conv"]
    depthwise = {node.name for node in convolutions if attribute(node, "group", 1) > 1}
    assert len(depthwise) == 2
    floats = in_float(model, family)
    assert depthwise <= floats
    assert convolutions[-1].name not in floats


@pytest.mark.parametrize("family", ["cpu-avx2", "cpu-vnni", "cpu-arm64"])
@pytest.mark.parametrize("network", [residual(), attention(tokens=256, width=192)], ids=["residual", "attention"])
def test_where_float_would_win_less_than_a_tenth_nothing_is_left(network: ModelProto, family: str) -> None:
    assert in_float(network, family) == set()


def test_what_stays_float_says_for_which_family_and_on_what_evidence() -> None:
    placement = place(prepared(inverted("HardSwish", 56)), "cpu-avx2")
    decision = next(decision for decision in placement.decisions if decision.rule == "faster-in-float")
    assert decision.reason.startswith("faster in float on cpu-avx2: ")
    (rule,) = [rule for rule in placement.rules if rule.name == "faster-in-float"]
    assert "measured with onnxruntime" in rule.source


def depthwise(size: int) -> ModelProto:
    net = NetworkBuilder()
    x = net.node("HardSwish", net.conv("image", 8, 8, group=8))
    x = net.node("HardSwish", net.conv(x, 8, 8, group=8))
    net.node("Exp", net.node("HardSwish", net.conv(x, 8, 8, group=8)), output="y")
    net.node("Mul", "y", x, output="z")
    shape: list[int | str] = ["batch", 8, size, size]
    return net.model({"image": shape}, {"y": shape, "z": shape})


@pytest.mark.parametrize("family", ["cpu-avx2", "cpu-vnni", "cpu-arm64"])
def test_a_graph_that_8_bits_would_only_slow_down_stays_in_float_and_says_so(family: str) -> None:
    placement = place(prepared(depthwise(224)), family)
    assert placement.is_float
    assert not placement.quantized_nodes
    assert placement.speed is not None
    assert placement.speed.placed_us == placement.speed.float_us < placement.speed.eight_bit_us
    said = r"INT8 pays nowhere on this CPU: all 3 products in INT8 would take [1-9]\.\d\d times as long as in FP32"
    assert re.fullmatch(said, placement.speed.in_words())


def test_a_graph_too_short_to_tell_is_quantized_as_asked_and_says_that_it_may_be_slower() -> None:
    placement = place(prepared(depthwise(32)), "cpu-avx2")
    assert "faster-in-float" not in {decision.rule for decision in placement.decisions}
    assert placement.quantized_nodes
    assert placement.speed is not None
    assert placement.speed.in_words().startswith("INT8 may be slower than FP32: its products are estimated at ")


def test_layers_that_are_spared_leave_the_others_in_8_bits_whatever_they_cost() -> None:
    model = prepared(depthwise(224))
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    placement = place(model, "cpu-avx2", {first: "judged alone"})
    assert not placement.is_float
    assert placement.quantized_nodes


def test_how_many_products_stay_in_float_and_what_that_brings_is_counted() -> None:
    placement = place(prepared(inverted("HardSwish", 56)), "cpu-avx2")
    speed = placement.speed
    assert speed is not None
    assert set(speed.in_float) == in_float(inverted("HardSwish", 56), "cpu-avx2")
    assert speed.placed_us < speed.eight_bit_us
    assert speed.placed_us < speed.float_us
    said = f"{len(speed.in_float)} of {speed.products} products stay in float, where INT8 would be slower; "
    assert speed.in_words().startswith(said)
    assert placement.to_json()["speed"]["in_float"] == speed.in_float


def test_where_nothing_pays_no_int8_graph_is_written_and_an_earlier_one_goes(tmp_path: Path) -> None:
    onnx.save(inverted("HardSwish", 56), tmp_path / "own.onnx")
    images = np.random.default_rng(0).normal(size=(4, 3, 56, 56)).astype(np.float32)
    quantized(tmp_path / "own.onnx", saved(tmp_path / "x.npz", image=images), "cpu-avx2", "tensorrt-rtx")
    graph = tmp_path / "out" / "own.cpu-avx2.int8.onnx"
    assert graph.is_file()
    onnx.save(depthwise(224), tmp_path / "own.onnx")
    images = np.random.default_rng(0).normal(size=(2, 8, 224, 224), scale=0.01).astype(np.float32)
    data = saved(tmp_path / "x.npz", image=images)
    outcome = quantized(tmp_path / "own.onnx", data, "cpu-avx2", "tensorrt-rtx")
    why = outcome.document["placement"]["missing_graphs"][graph.name.removeprefix("own.")]
    assert why.startswith(
        "no cpu-avx2 INT8 graph, because FP32 is faster: INT8 pays nowhere on this CPU: all 3 products"
    )
    assert why in outcome.document["notes"]
    assert outcome.document["placement"]["families"]["cpu-avx2"]["speed"]["products"] == 3
    assert not graph.exists()
    assert graph.with_name("own.tensorrt-rtx.int8.onnx").is_file()
