"""The streaming pass: what is measured, who is named when data is poisoned, and that memory stays flat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_networks import NetworkBuilder, attention, images, residual

from calibration.errors import CalibrationError, GraphRefused, PoisonedData
from calibration.graph import Graph
from calibration.prepare import prepared
from calibration.statistics import Sketches
from calibration.statistics.collect import Batch, collect
from calibration.statistics.summary import stride_for


def batches_of(values: NDArray[np.float32], size: int, name: str = "image", first: int = 0) -> Iterator[Batch]:
    for start in range(0, len(values), size):
        part = values[start : start + size]
        yield Batch([f"digit-{first + start + i}" for i in range(len(part))], {name: part})


def test_the_pass_measures_inputs_and_activations_as_the_graph_computes_them() -> None:
    model = prepared(onnx.parser.parse_model(_TWO_BRANCHES))
    values = images(10, 2, 3)
    sketches = collect(model, batches_of(values, 4), threads=1)
    assert sketches.images == 10
    product = np.maximum(values @ np.array([[1, -2], [0, 1], [3, 0.5]], np.float32), 0)
    expected = {"image": values, "positive": product, "sum": product + product.mean(axis=1, keepdims=True)}
    for name, array in expected.items():
        sketch = sketches.tensors[name]
        assert (sketch.minimum, sketch.maximum) == pytest.approx((array.min(), array.max()), rel=1e-6)
        assert (sketch.count, sketch.zeros) == (array.size, int((array == 0).sum()))


def test_what_only_a_relu_reads_and_what_is_not_float_is_not_measured() -> None:
    sketches = collect(prepared(onnx.parser.parse_model(_TWO_BRANCHES)), batches_of(images(4, 2, 3), 4), threads=1)
    assert set(sketches.tensors) == {"image", "positive", "mean", "sum"}


def test_what_a_relu_reads_is_measured_where_it_has_another_use() -> None:
    net = NetworkBuilder()
    out = net.conv("image", 1, 4, output="out")
    both = net.conv("image", 1, 4, output="both")
    net.node("Add", net.node("Relu", out), net.node("Add", net.node("Relu", both), both), output="sum")
    shape: list[int | str] = ["batch", 4, 8, 8]
    model = prepared(net.model({"image": ["batch", 1, 8, 8]}, {"out": shape, "sum": shape}))
    sketches = collect(model, batches_of(images(2, 1, 8, 8), 2), threads=1)
    assert {"out", "both"} <= set(sketches.tensors)


def contents(sketches: Sketches) -> dict[str, object]:
    return {
        name: (
            (s.minimum, s.maximum, s.zeros, s.counts.tobytes(), s.highest.held, s.lowest.held),
            {n: (g.minimum, g.maximum, g.count, g.zeros, g.counts.tobytes()) for n, g in sorted(s.groups.items())},
        )
        for name, s in sketches.tensors.items()
    }


@pytest.mark.parametrize("network", [residual(widths=(8, 12)), attention()], ids=["blocked", "sequence"])
def test_batches_and_threads_change_no_bit_of_the_sketches(network: onnx.ModelProto) -> None:
    model = prepared(network)
    name, shape = Graph(model).inputs[0], Graph(model).shape(Graph(model).inputs[0]) or ()
    values = images(13, *(size or 1 for size in shape[1:]))
    expected = collect(model, batches_of(values, 13, name), threads=1)
    for size, threads in ((1, 1), (5, 1), (13, 2), (4, 3)):
        assert contents(collect(model, batches_of(values, size, name), threads=threads)) == contents(expected)
    assert expected.images == 13


@pytest.mark.parametrize("count", [7, 33])
def test_a_pass_that_is_told_how_many_images_come_and_one_that_is_not_end_in_the_same_groups(count: int) -> None:
    model, values = prepared(residual(widths=(8,))), images(count, 1, 8, 8)
    unknown = collect(model, batches_of(values, 5), threads=2)
    told = collect(model, batches_of(values, 32), threads=1, samples=count)
    assert contents(unknown) == contents(told)
    assert unknown.group_size == told.group_size == {7: 1, 33: 4}[count]
    assert sorted(told.tensors["image"].groups) == list(range({7: 7, 33: 9}[count]))


def test_shards_merge_in_any_order_into_the_groups_and_peaks_of_one_pass() -> None:
    model, values = prepared(residual(widths=(8,))), images(37, 1, 8, 8)
    whole = collect(model, batches_of(values, 8), threads=1)
    parts = [
        collect(model, batches_of(values[start:stop], 4, first=start), threads=1, first=start, samples=37)
        for start, stop in ((20, 37), (0, 9), (9, 20))
    ]
    merged = Sketches()
    for part in parts:
        merged.merge(part)
    assert contents(merged) == contents(whole)


@pytest.fixture(scope="module")
def large() -> onnx.ModelProto:
    """A network one of whose tensors has more values than are counted."""
    net = NetworkBuilder()
    net.node("Relu", net.conv("image", 1, 16), output="wide")
    return prepared(net.model({"image": ["batch", 1, 32, 32]}, {"wide": ["batch", 16, 32, 32]}))


@given(st.lists(st.integers(1, 10), max_size=3), st.integers(1, 4))
@settings(max_examples=6, deadline=None)
def test_shards_of_any_lengths_count_the_places_that_one_pass_counts(
    large: onnx.ModelProto, cuts: list[int], batch: int
) -> None:
    values, edges = images(11, 1, 32, 32), sorted({0, *cuts, 11})
    assert 1 < stride_for(16 * 32 * 32) < 11
    merged = Sketches()
    for start, stop in reversed(list(pairwise(edges))):
        part = batches_of(values[start:stop], batch, first=start)
        merged.merge(collect(large, part, threads=2, first=start, samples=11))
    whole = collect(large, batches_of(values, 11), threads=1)
    assert contents(merged) == contents(whole)
    assert merged.tensors["wide"].counted == whole.tensors["wide"].counted < whole.tensors["wide"].count


def test_an_image_of_another_number_has_other_places_counted(large: onnx.ModelProto) -> None:
    values = images(1, 1, 32, 32)
    here, there = (collect(large, batches_of(values, 1, first=n), threads=1, first=n).tensors["wide"] for n in (0, 1))
    assert (here.minimum, here.maximum, here.count) == (there.minimum, there.maximum, there.count)
    assert here.counts.sum() + here.zeros == there.counts.sum() + there.zeros == here.count
    assert not np.array_equal(here.counts, there.counts)


def test_the_images_that_reach_furthest_are_held_by_name() -> None:
    values = images(20, 1, 8, 8)
    values[13, 0, 2, 2], values[4, 0, 1, 1], values[17, 0, 0, 0] = 50, 40, -60
    sketch = collect(prepared(residual(widths=(8,))), batches_of(values, 6), threads=2).tensors["image"]
    assert [(peak.value, peak.image.name) for peak in sketch.highest.held] == [(50, "digit-13"), (40, "digit-4")]
    assert (sketch.lowest.held[0].value, sketch.lowest.held[0].image.name) == (60, "digit-17")


def test_of_a_fixed_batch_each_image_is_held_by_its_own_name() -> None:
    net = NetworkBuilder()
    net.linear(net.spatial_mean(net.node("Relu", net.conv("image", 1, 8))), 8, 4, output="logits")
    values = images(8, 1, 8, 8)
    values[6, 0, 0, 0] = 50
    model = prepared(net.model({"image": [4, 1, 8, 8]}, {"logits": [4, 4]}))
    sketch = collect(model, batches_of(values, 8), threads=1).tensors["image"]
    assert sketch.highest.held[0].image.name == "digit-6"


@pytest.mark.parametrize("width", [8, 16, 20, 24])
def test_tensors_that_onnxruntime_keeps_in_blocks_are_measured_as_they_are(width: int) -> None:
    model, values = prepared(residual(widths=(width, 16))), images(3, 1, 8, 8)
    sketches = collect(model, batches_of(values, 3), threads=1)
    outputs = ReferenceEvaluator(model_with_all_outputs(model)).run(None, {"image": values})
    found = dict(zip((output.name for output in model_with_all_outputs(model).graph.output), outputs, strict=True))
    for name, sketch in sketches.tensors.items():
        array = values if name == "image" else found[name]
        assert sketch.count == array.size
        assert sketch.zeros == pytest.approx((array == 0).sum(), abs=2)
        assert (sketch.minimum, sketch.maximum) == pytest.approx((array.min(), array.max()), rel=1e-4, abs=1e-5)


def model_with_all_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.output[:]
    extended.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for node in model.graph.node
        for name in node.output
    )
    return extended


def test_a_graph_of_a_fixed_batch_runs_in_batches_of_that_size() -> None:
    net = NetworkBuilder()
    net.linear(net.spatial_mean(net.node("Relu", net.conv("image", 1, 8))), 8, 4, output="logits")
    model = prepared(net.model({"image": [4, 1, 8, 8]}, {"logits": [4, 4]}))
    sketches = collect(model, batches_of(images(8, 1, 8, 8), 8), threads=1)
    assert sketches.images == 8
    assert sketches.tensors["logits"].count == 32


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30, -1e30])
def test_poison_in_the_data_names_image_and_input(poison: float) -> None:
    values = images(10, 1, 8, 8)
    values[7, 0, 3, 3] = poison
    shown = re.escape(f"{np.float32(poison)}")
    with pytest.raises(PoisonedData, match=rf"image 'digit-7' makes tensor 'image' hold {shown}; take the image out"):
        collect(prepared(residual(widths=(8,))), batches_of(values, 4), threads=1)


def test_an_activation_that_overflows_names_image_and_tensor() -> None:
    model = prepared(onnx.parser.parse_model(_SQUARE_ROOT))
    values = np.ones((6, 4), np.float32)
    values[5, 0] = -1
    with pytest.raises(PoisonedData, match="image 'digit-5' makes tensor 'root' hold nan"):
        collect(model, batches_of(values, 3), threads=1)


def test_a_poisoned_tensor_whose_rows_are_not_images_names_what_ran_together() -> None:
    net = NetworkBuilder()
    net.node("MatMul", net.node("Log", net.node("Transpose", "image"), output="logarithm"), "image", output="gram")
    values = np.ones((3, 4), np.float32)
    values[1, 0] = -1
    with pytest.raises(
        PoisonedData, match="one of the images 'digit-0' to 'digit-2' makes tensor 'logarithm' hold nan"
    ):
        collect(prepared(net.model({"image": [3, 4]}, {"gram": [4, 4]})), batches_of(values, 3), threads=1)


def test_no_image_at_all_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no image to calibrate with; give at least one"):
        collect(prepared(residual(widths=(8,))), [], threads=1)


def test_a_batch_with_other_inputs_or_another_number_of_images_is_refused() -> None:
    model = prepared(residual(widths=(8,)))
    with pytest.raises(CalibrationError, match=r"a batch has inputs \['pixels'\], the graph wants \['image'\]"):
        collect(model, batches_of(images(2, 1, 8, 8), 2, name="pixels"), threads=1)
    with pytest.raises(CalibrationError, match=r"input 'image' has shape \(2, 1, 8, 8\) for 3 image ids"):
        collect(model, [Batch(["a", "b", "c"], {"image": images(2, 1, 8, 8)})], threads=1)


def test_images_of_a_wrong_shape_are_named() -> None:
    with pytest.raises(CalibrationError, match="the graph does not run on image 'digit-0': "):
        collect(prepared(residual(widths=(8,))), batches_of(images(2, 3, 8, 8), 2), threads=1)


def test_a_graph_that_onnxruntime_does_not_know_is_refused() -> None:
    model = prepared(residual(widths=(8,)))
    model.graph.node[0].domain = "somebody.else"
    model.opset_import.append(onnx.helper.make_opsetid("somebody.else", 1))
    with pytest.raises(GraphRefused, match=r"onnxruntime cannot load the graph to measure it: .*somebody\.else"):
        collect(model, batches_of(images(2, 1, 8, 8), 2), threads=1)


def test_progress_counts_images_and_what_it_raises_stops_the_pass() -> None:
    class Stopped(Exception):
        pass

    seen: list[int] = []

    def on_batch(count: int) -> None:
        seen.append(count)
        if count >= 8:
            raise Stopped

    with pytest.raises(Stopped):
        collect(prepared(residual(widths=(8,))), batches_of(images(20, 1, 8, 8), 4), threads=1, on_batch=on_batch)
    assert seen == [4, 8]


def test_batches_are_taken_one_at_a_time_and_let_go() -> None:
    alive: list[NDArray[np.float32]] = []

    def endless() -> Iterator[Batch]:
        for number in range(6):
            alive.append(images(4, 1, 8, 8, seed=number))
            assert len(alive) == 1, "the batch before is still being held"
            yield Batch([f"{number}-{i}" for i in range(4)], {"image": alive.pop()})

    sketches: Sketches = collect(prepared(residual(widths=(8,))), endless(), threads=1)
    assert sketches.images == 24


_TWO_BRANCHES = """
<ir_version: 10, opset_import: ["" : 18]>
network (float[batch, 2, 3] image) => (float[batch, 2, 2] sum)
<float[3, 2] weight = {1, -2, 0, 1, 3, 0.5}, int64[1] axes = {1}> {
    product = MatMul(image, weight)
    positive = Relu(product)
    mean = ReduceMean(positive, axes)
    sum = Add(positive, mean)
    unused = Shape(product)
}
"""

_SQUARE_ROOT = """
<ir_version: 10, opset_import: ["" : 18]>
network (float[batch, 4] image) => (float[batch, 2] logits)
<float[4, 2] weight = {1, 2, 3, 4, 5, 6, 7, 8}> {
    root = Sqrt(image)
    logits = MatMul(root, weight)
}
"""
