"""Summaries: what a graph says of its own tensors is what one would read off the tensors themselves."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_networks import NetworkBuilder, attention, images, residual

from calibration import METHODS
from calibration.errors import PoisonedData
from calibration.graph import Graph
from calibration.prepare import prepared
from calibration.statistics.collect import Batch, collect
from calibration.statistics.measured_session import MeasuredSession
from calibration.statistics.never_nan import never_nan
from calibration.statistics.sketch import Sketch
from calibration.statistics.summarized_session import SummarizedSession
from calibration.statistics.summary import COUNTED_WHOLE, MOST_STRIDE, counted_places, stride_for, summary_of

_SIDE = 48


def two_widths() -> onnx.ModelProto:
    """One in whole blocks of channels, one that onnxruntime pads; both of more values than are counted whole."""
    net = NetworkBuilder()
    wide = net.node("Relu", net.conv("image", 1, 16))
    net.conv(wide, 16, 12, output="odd")
    return net.model({"image": ["batch", 1, "height", "width"]}, {"odd": ["batch", 12, "height", "width"]})


@pytest.mark.parametrize(
    ("network", "shape"),
    [(two_widths(), (1, 1, _SIDE, _SIDE)), (residual(widths=(8, 20)), (1, 1, 8, 8)), (attention(), None)],
    ids=["large", "blocked", "sequence"],
)
def test_a_graph_summarizes_its_tensors_as_their_values_do(
    network: onnx.ModelProto, shape: tuple[int, ...] | None
) -> None:
    model = prepared(network)
    graph = Graph(model)
    feed = graph.inputs[0]
    tensors = [name for name in graph.activations() if name not in graph.inputs]
    values = images(*(shape or (1, *(size or 1 for size in (graph.shape(feed) or ())[1:]))))
    summaries, whole = SummarizedSession(model, tensors, tensors[-1:]).run({feed: values}, 5)
    expected = MeasuredSession(model, tensors).run({feed: values})
    assert list(summaries) == tensors
    assert np.array_equal(whole[tensors[-1]], expected[tensors[-1]])
    for name, array in expected.items():
        found, wanted = summaries[name], summary_of(array, counted_places(array.size, 5))
        assert (found.low, found.high, found.size, found.stride) == (wanted.low, wanted.high, array.size, wanted.stride)
        assert np.array_equal(found.counted, wanted.counted)
    assert shape != (1, 1, _SIDE, _SIDE) or min(each.stride for each in summaries.values()) > 1


def test_each_image_has_other_places_counted() -> None:
    session, values = SummarizedSession(prepared(two_widths()), ["odd"], ["odd"]), images(1, 1, _SIDE, _SIDE)
    seen: set[int] = set()
    for image in range(40):
        summaries, whole = session.run({"image": values}, image)
        places = counted_places(whole["odd"].size, image)
        assert np.array_equal(summaries["odd"].counted, whole["odd"].reshape(-1)[places.start :: places.step])
        seen.update(places)
    assert seen == set(range(12 * _SIDE * _SIDE))


def test_images_of_several_sizes_are_summarized_by_their_own_size() -> None:
    session = SummarizedSession(prepared(two_widths()), ["odd"], [])
    for side in (8, _SIDE, 8):
        odd = session.run({"image": images(1, 1, side, side)}, 0)[0]["odd"]
        assert (odd.size, odd.stride) == (12 * side * side, stride_for(12 * side * side))


def test_a_size_that_no_shape_tells_is_read_off_each_run() -> None:
    net = NetworkBuilder()
    kept = net.node(
        "Compress", net.node("Reshape", "image", net.weight(np.array([-1]))), net.node("Cast", "keep", to=9)
    )
    net.node("Relu", kept, output="kept")
    net.linear("image", 4, 2, output="logits")
    model = prepared(net.model({"image": ["batch", 4], "keep": [20_000]}, {"kept": ["some"], "logits": ["batch", 2]}))
    session = SummarizedSession(model, ["kept"], [])
    for count in (20_000, 3, 19_997):
        keep = (np.arange(20_000) < count).astype(np.float32)
        summary = session.run({"image": images(5000, 4), "keep": keep}, 0)[0]["kept"]
        assert (summary.size, summary.stride) == (count, stride_for(count))
        assert summary.counted.size == math.ceil(count / stride_for(count))


def test_nan_is_looked_for_only_where_finite_values_can_make_it() -> None:
    net = NetworkBuilder()
    hidden = net.node("Relu", net.conv("image", 1, 4), output="positive")
    net.node("Relu", net.node("Sqrt", "image"), output="rooted")
    net.node("Mul", net.node("Log", hidden, output="logarithm"), hidden, output="product")
    net.node("Conv", "image", net.weight(np.full((1, 1, 1, 1), 3e38, np.float32)), output="overflowing")
    shape: list[int | str] = ["batch", 1, 8, 8]
    wide: list[int | str] = ["batch", 4, 8, 8]
    graph = Graph(prepared(net.model({"image": shape}, {"rooted": shape, "product": wide, "overflowing": shape})))
    unclear = {"rooted", "logarithm", "overflowing"}
    assert set(graph.activations()) - never_nan(graph, frozenset(graph.activations())) == {"image", *unclear}


@given(st.integers(1, 1 << 24))
def test_a_stride_visits_every_row_and_column_and_counts_enough(size: int) -> None:
    stride = stride_for(size)
    assert math.gcd(stride, size) == 1
    assert size > COUNTED_WHOLE or stride == 1
    assert stride <= MOST_STRIDE or any(math.gcd(size, lower) > 1 for lower in range(MOST_STRIDE, stride))


@given(st.integers(1, 1 << 18), st.integers(1, 64), st.integers(0, 10**9))
def test_over_as_many_runs_as_its_stride_all_places_of_a_tensor_have_their_turn(
    values_an_image: int, images_a_run: int, first: int
) -> None:
    size = values_an_image * images_a_run
    runs = [counted_places(size, first + images_a_run * run) for run in range(stride_for(size))]
    assert sorted(run.start for run in runs) == list(range(len(runs)))
    assert {run.step for run in runs} == {len(runs)}
    assert sum(map(len, runs)) == size


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 8), st.booleans()
)
def test_counted_values_stand_for_all_of_them(values: list[float], stride: int, begin: int, rectified: bool) -> None:
    array = np.array(values, np.float32)
    array = np.maximum(array, 0) if rectified else array
    places = range(min(begin, stride - 1, array.size - 1), array.size, stride)
    sketch = Sketch()
    sketch.add([summary_of(array, places)])
    assert (sketch.minimum, sketch.maximum) == (array.min(), array.max())
    assert sketch.counts.sum() + sketch.zeros == sketch.count == array.size
    assert sketch.counts.min() >= 0
    standing = np.repeat(array[places.start :: stride], stride)
    standing = np.pad(standing, (0, max(0, array.size - standing.size)), mode="edge")[: array.size]
    repeated = Sketch()
    repeated.update(standing)
    assert (sketch.zeros == repeated.zeros) or not array.any()
    if sketch.exponent == repeated.exponent:
        assert np.array_equal(sketch.counts, repeated.counts)


_parts = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=20).map(lambda values: np.array(values, np.float32))


@given(st.lists(st.tuples(_parts, st.integers(1, 3)), min_size=1, max_size=6))
def test_runs_that_are_counted_together_give_what_they_give_one_by_one(
    runs: list[tuple[NDArray[np.float32], int]],
) -> None:
    summaries = [summary_of(values, range(0, values.size, stride)) for values, stride in runs]
    together, apart = Sketch(), Sketch()
    together.add(summaries)
    for summary in summaries:
        apart.add([summary])
    assert np.array_equal(together.counts, apart.counts)
    assert (together.count, together.counted, together.zeros) == (apart.count, apart.counted, apart.zeros)
    assert (together.minimum, together.maximum, together.exponent) == (apart.minimum, apart.maximum, apart.exponent)


def test_poison_that_is_not_counted_is_named_all_the_same() -> None:
    net, size = NetworkBuilder(), 3 * COUNTED_WHOLE
    net.linear(net.node("Sqrt", "image", output="root"), size, 2, output="logits")
    model = prepared(net.model({"image": ["batch", size]}, {"logits": ["batch", 2]}))
    values = 1 + np.abs(images(3, size))
    values[1, 1] = -1
    assert stride_for(size) > 1
    with pytest.raises(PoisonedData, match="image 'b' makes tensor 'root' hold nan"):
        collect(model, [Batch(["a", "b", "c"], {"image": values})], threads=1)


@pytest.mark.parametrize("method", METHODS)
def test_extremes_that_are_not_counted_still_bound_the_range(method: str) -> None:
    values = np.zeros(100, np.float32)
    values[[1, 2]] = 5, -0.5
    sketch = Sketch()
    sketch.update(values, stride=3)
    assert (sketch.minimum, sketch.maximum, sketch.count, sketch.counted) == (-0.5, 5, 100, 34)
    assert not sketch.counts.any()
    chosen = METHODS[method].range_of(sketch)
    assert -0.5 <= chosen.low <= 0 <= chosen.high <= 5
