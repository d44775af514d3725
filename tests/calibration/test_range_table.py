"""The amax of every tensor of one graph, the same for Q/DQ graphs, caches and devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images, residual

from calibration.errors import CalibrationError
from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.range_table import GraphFile, RangeTable, range_table
from calibration.ranges import Range, Ranges, ranges_from_sketches
from calibration.scale import LEAST_SCALE, scale_from_amax
from calibration.statistics.collect import Batch, collect
from calibration.tensorrt_cache.cache import CalibrationCache, hexadecimal
from calibration.tensorrt_cache.version import wanted_version

GRAPH = GraphFile("model.fp32.onnx", "ab" * 32)
NETWORKS: dict[str, tuple[Callable[[], ModelProto], tuple[int, ...]]] = {
    "residual": (residual, (1, 8, 8)),
    "attention": (attention, (16, 32)),
}


@cache
def calibrated(network: str, method: str) -> tuple[ModelProto, Ranges]:
    make, shape = NETWORKS[network]
    model, values = prepared(make()), images(16, *shape)
    batch = Batch([str(index) for index in range(16)], {model.graph.input[0].name: values})
    return model, ranges_from_sketches(collect(model, [batch], threads=1), method)


def small(method: str = "minmax") -> ModelProto:
    net = NetworkBuilder()
    x = net.node("Clip", net.node("Relu", net.conv("image", 1, 4, output="first"), output="cut"), output="clipped")
    net.conv(x, 4, 2, output="features")
    return prepared(net.model({"image": ["batch", 1, 8, 8]}, {"features": ["batch", 2, 8, 8]}))


def qdq_scales(model: ModelProto, ranges: Ranges) -> dict[str, np.float32]:
    """By tensor, read back from the nodes of the Q/DQ graph."""
    found = quantize(model, ranges, place(model, "tensorrt"))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    pairs = [node for node in found.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in stored]
    return {node.input[0]: np.float32(stored[node.input[1]]) for node in pairs}


@pytest.mark.parametrize("method", ["entropy", "minmax"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_tensor_has_the_same_scale_in_every_form_bit_for_bit(network: str, method: str) -> None:
    model, ranges = calibrated(network, method)
    table = range_table(model, ranges, GRAPH)
    cache_ = CalibrationCache.from_table(table, wanted_version("10.3.0"))
    lines = dict(line.rsplit(": ", 1) for line in cache_.to_bytes().decode().splitlines()[1:])
    read = json.loads(table.to_bytes())["tensors"]
    scales = qdq_scales(model, ranges)
    assert len(scales) >= 8
    for tensor, scale in scales.items():
        bits = scale.tobytes()
        assert bytes.fromhex(lines[tensor])[::-1] == bits  # the cache is big-endian, this machine is not
        assert np.float32(read[tensor]["amax"] / 127).tobytes() == bits
        assert (np.float32(read[tensor]["amax"]) / np.float32(127)).tobytes() == bits  # as a device divides
        assert scale_from_amax(ranges.of(tensor).amax).tobytes() == bits


def test_a_tensor_that_only_a_relu_or_clip_reads_has_the_range_behind_it() -> None:
    model = small()
    tensors = {"image": Range(-1, 2), "clipped": Range(0, 6), "features": Range(-3, 3)}
    table = range_table(model, Ranges("minmax", 8, tensors), GRAPH)
    assert list(table.tensors) == ["image", "first", "cut", "clipped", "features"]
    assert [each.amax for each in table.tensors.values()] == [2, 6, 6, 6, 3]
    assert [each.like for each in table.tensors.values()] == [None, "clipped", "clipped", None, None]


def test_a_tensor_of_zeros_has_the_scale_1_and_a_tiny_one_the_least() -> None:
    tensors = {"image": Range(0, 0), "clipped": Range(0, 1e-42), "features": Range(-3, 3)}
    found = range_table(small(), Ranges("minmax", 8, tensors), GRAPH).tensors
    assert found["image"].amax == 127
    assert found["clipped"].amax == 127 * LEAST_SCALE
    assert np.float32(found["clipped"].amax) / np.float32(127) == np.float32(LEAST_SCALE)


def test_a_tensor_that_was_not_measured_is_named() -> None:
    with pytest.raises(CalibrationError, match="tensor 'clipped' has no range"):
        range_table(small(), Ranges("minmax", 8, {"image": Range(-1, 1)}), GRAPH)


def test_the_file_says_whose_graph_it_is_and_what_is_behind_it() -> None:
    model, ranges = calibrated("residual", "entropy")
    table: RangeTable = range_table(model, ranges, GRAPH)
    document = json.loads(table.to_bytes())
    assert list(document) == ["schema_version", "kind", "graph", "method", "images", "tensors"]
    assert (document["schema_version"], document["kind"]) == (1, "tensorrt-ranges")
    assert document["graph"] == {"name": "model.fp32.onnx", "sha256": "ab" * 32}
    assert (document["method"], document["images"]) == ("entropy", 16)
    assert document["tensors"]["conv_0"] == {"amax": document["tensors"]["relu_1"]["amax"], "like": "relu_1"}


def test_the_cache_of_a_table_is_written_in_the_order_of_the_graph() -> None:
    model, ranges = calibrated("residual", "minmax")
    text = CalibrationCache.from_table(range_table(model, ranges, GRAPH), wanted_version("8.6.1")).to_bytes().decode()
    assert text.startswith("TRT-8601-EntropyCalibration2\nimage: ")
    assert [line.split(": ")[0] for line in text.splitlines()[1:4]] == ["image", "conv_0", "relu_1"]
    assert hexadecimal(np.float32(1 / 127)) == "3c010204"
