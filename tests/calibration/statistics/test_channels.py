"""The extremes of each channel: where they are asked for, what they are of, and that shards merge them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_networks import attention, images, residual
from own_graph import network, samples, saved

from calibration.graph import Graph
from calibration.prepare import prepared
from calibration.statistics import Sketches
from calibration.statistics.channels import channel_axes
from calibration.statistics.collect import Batch, collect
from pipeline.commands.calibrate import CalibrateRequest, calibrate
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.commands.quantize_sketches import SketchesRequest, quantize_sketches
from pipeline.errors import DataRejected
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress


def batches_of(values: NDArray[np.float32], name: str, first: int = 0) -> list[Batch]:
    return [Batch([str(first + number) for number in range(len(values))], {name: values})]


def all_tensors(model: onnx.ModelProto, name: str, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    names = [output for node in model.graph.node for output in node.output]
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.output[:]
    extended.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    return {name: values, **dict(zip(names, ReferenceEvaluator(extended).run(None, {name: values}), strict=True))}


@pytest.mark.parametrize("network", [residual(widths=(8, 12)), attention()], ids=["images", "sequences"])
def test_each_channel_has_the_extremes_that_the_graph_computes(network: onnx.ModelProto) -> None:
    model = prepared(network)
    name = Graph(model).inputs[0]
    values = images(5, *(size or 1 for size in (Graph(model).shape(name) or ())[1:]))
    sketches = collect(model, batches_of(values, name), threads=2, channels=True)
    expected, axes = all_tensors(model, name, values), channel_axes(Graph(model))
    seen = {tensor: sketch.channels for tensor, sketch in sketches.tensors.items() if sketch.channels is not None}
    assert name in seen
    assert len(seen) > len(sketches.tensors) / 2
    for tensor, found in seen.items():
        moved = np.moveaxis(expected[tensor], axes[tensor], 0).reshape(found.low.size, -1)
        assert found.low == pytest.approx(moved.min(axis=1), rel=1e-4, abs=1e-5)
        assert found.high == pytest.approx(moved.max(axis=1), rel=1e-4, abs=1e-5)


def test_channels_are_first_for_images_and_last_for_sequences() -> None:
    of_images, of_sequences = Graph(prepared(residual(widths=(8,)))), Graph(prepared(attention()))
    assert {len(of_images.shape(name) or ()): axis for name, axis in channel_axes(of_images).items()} == {4: 1, 2: 1}
    ranks = {name: len(of_sequences.shape(name) or ()) for name in channel_axes(of_sequences)}
    assert {ranks[name]: axis for name, axis in channel_axes(of_sequences).items() if ranks[name] == 3} == {3: 2}


def test_nobody_pays_for_them_who_did_not_ask() -> None:
    sketches = collect(prepared(residual(widths=(8,))), batches_of(images(3, 1, 8, 8), "image"), threads=1)
    assert all(sketch.channels is None for sketch in sketches.tensors.values())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def shard(model: Path, data: Path, number: int, channels: bool = True) -> Path:
    out = model.with_name(f"{number}.npz")
    request = CalibrateRequest(model, data, f"{number}/2", out, None, 4, 1, channel_extremes=channels)
    calibrate(request, QuietProgress(), Cancellation())
    return out


@pytest.mark.parametrize("opset", [13, 18])
def test_shards_merge_them_to_the_bytes_of_one_pass_and_ranges_json_has_them(model: Path, opset: int) -> None:
    own = network()
    own.opset_import[0].version = opset
    onnx.save(own, model)
    data = saved(model.with_name("x.npz"), x=samples(9))
    request = QuantizeRequest(
        model, data, ("cpu",), "minmax", None, model.parent / "out", 4, 1, repair=(), channel_extremes=True
    )
    quantize(request, QuietProgress(), Cancellation())
    shards = tuple(shard(model, data, number) for number in (2, 1))
    quantize_sketches(SketchesRequest(model, shards, ("cpu",), "minmax", model.parent / "merged"))
    for name in ("own.sketches.npz", "own.ranges.json"):
        assert (model.parent / "merged" / name).read_bytes() == (model.parent / "out" / name).read_bytes()
    entry = json.loads((model.parent / "out" / "own.ranges.json").read_text())["tensors"]["r1"]
    assert (len(entry["channels"]["low"]), max(entry["channels"]["high"])) == (8, entry["high"])
    assert Sketches.load(model.parent / "out" / "own.sketches.npz").tensors["r1"].channels is not None


def test_a_shard_without_them_is_not_merged_with_one_that_has_them(model: Path) -> None:
    data = saved(model.with_name("x.npz"), x=samples(9))
    shards = (shard(model, data, 1), shard(model, data, 2, channels=False))
    with pytest.raises(
        DataRejected, match=r"2\.npz: has no extremes of channels and another shard has; measure all of"
    ):
        quantize_sketches(SketchesRequest(model, shards, ("cpu",), "minmax", model.parent / "merged"))
