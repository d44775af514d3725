"""Ranges bound to a parsed network: every float tensor gets one, or the tensor and its layer are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_tensorrt import MODULE, DataType, ITensor, NetworkOf
from onnx_networks import attention, images, residual
from own_graph import network as own_network

from calibration.prepare import prepared
from calibration.range_table import GraphFile, range_table
from calibration.ranges import ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from engines.errors import BuildFailed, EngineDamaged
from engines.files import sha256_of_file
from engines.tensorrt.engine import TensorRTRTX
from engines.tensorrt.range_rules import BOUNDED, BY_NAME, CUTS, KEEPS
from engines.tensorrt.range_table import RangeTable
from engines.tensorrt.ranges import Coverage, bind_ranges, coverage_of

LATER = {"SQUEEZE", "UNSQUEEZE"}
"""Layers that TensorRT 10.3 does not have yet."""
API = Path(__file__).parents[2] / "data" / "tensorrt-api"


def table(**amax: float) -> RangeTable:
    return RangeTable("model.fp32.onnx", "ab" * 32, "entropy", 512, amax)


def bound(net: NetworkOf, **amax: float) -> dict[str, float]:
    """What each tensor then holds, read from the tensor itself."""
    bind_ranges(MODULE, net.built(), table(**amax))
    ranges = {name: tensor.dynamic_range for name, tensor in net.tensors.items()}
    assert all(found is not None and found[0] == -found[1] for found in ranges.values())
    return {name: found[1] for name, found in ranges.items() if found is not None}


def source(net: NetworkOf, tensor: str, **amax: float) -> str:
    return coverage_of(MODULE, net.built(), table(**amax)).ranges[tensor].source


def test_tensors_of_the_table_get_their_ranges_by_name() -> None:
    net = NetworkOf("image")
    net.layer("CONVOLUTION", ["image"], "conv")
    net.layer("ACTIVATION RELU", ["conv"], "relu")
    assert bound(net, image=1.5, conv=3.0, relu=3.0) == {"image": 1.5, "conv": 3.0, "relu": 3.0}
    assert source(net, "relu", image=1.5, conv=3.0, relu=3.0) == BY_NAME


def test_what_tensorrt_divides_by_127_is_the_scale_of_the_table() -> None:
    amax = float(np.float32(0.1234567))
    net = NetworkOf("image")
    assert np.float32(bound(net, image=amax)["image"]) / np.float32(127) == np.float32(amax / 127)


@pytest.mark.parametrize("kind", sorted(KEEPS - LATER))
def test_what_a_layer_keeps_has_the_range_of_what_it_reads(kind: str) -> None:
    net = NetworkOf("image")
    net.layer(kind, ["image"], "(Unnamed Layer* 0) [Any]_output")
    assert bound(net, image=2.0)["(Unnamed Layer* 0) [Any]_output"] == 2.0


def test_a_concatenation_has_the_range_of_its_largest_part_once_all_are_known() -> None:
    net = NetworkOf("a", "b")
    net.layer("CONCATENATION", ["a", "late"], "joined")
    net.layer("SHUFFLE", ["b"], "late")
    assert bound(net, a=1.0, b=4.0)["joined"] == 4.0


@pytest.mark.parametrize(("kind", "amax"), sorted(BOUNDED.items()))
def test_what_is_bounded_by_nature_has_that_bound(kind: str, amax: float) -> None:
    net = NetworkOf("image")
    net.layer(kind, ["image"], "bounded")
    assert bound(net, image=300.0)["bounded"] == amax


@pytest.mark.parametrize("kind", sorted(CUTS))
def test_what_a_cut_alone_reads_has_the_range_behind_it(kind: str) -> None:
    net = NetworkOf("image")
    net.layer("CONVOLUTION", ["image"], "conv")
    net.layer(kind, ["conv"], "cut")
    assert bound(net, image=1.0, cut=6.0)["conv"] == 6.0
    net.layer("SOFTMAX", ["conv"], "other")
    with pytest.raises(
        BuildFailed, match=r"1 tensors .* 'conv', written by CONVOLUTION layer 'layer_0', is in no table"
    ):
        bound(net, image=1.0, cut=6.0, other=1.0)


def test_the_measured_range_behind_a_shuffle_is_taken_before_a_bound() -> None:
    net = NetworkOf("scores")
    net.layer("SOFTMAX", ["scores"], "softmax_invented")
    net.layer("SHUFFLE", ["softmax_invented"], "softmax")
    assert bound(net, scores=9.0, softmax=0.25)["softmax_invented"] == 0.25


def test_constants_have_the_range_of_their_values_and_zeros_a_scale_of_1() -> None:
    net = NetworkOf("image")
    net.layer("CONSTANT", [], "weight", weights=np.array([-3.0, 2.0], np.float32))
    net.layer("SHUFFLE", ["weight"], "broadcast")
    net.layer("CONSTANT", [], "zeros", weights=np.zeros(3, np.float16))
    net.layer("MATRIX_MULTIPLY", ["image", "broadcast"], "product")
    found = bound(net, image=1.0, product=5.0)
    assert (found["weight"], found["broadcast"], found["zeros"]) == (3.0, 3.0, 127.0)


def test_a_product_before_its_bias_has_room_for_both() -> None:
    net = NetworkOf("image")
    net.layer("MATRIX_MULTIPLY", ["image", "image"], "invented")
    net.layer("CONSTANT", [], "bias", weights=np.array([0.5], np.float32))
    net.layer("ELEMENTWISE SUM", ["invented", "bias"], "logits")
    assert bound(net, image=1.0, logits=5.0)["invented"] == 5.5


def test_a_sum_of_two_activations_says_nothing_of_either() -> None:
    net = NetworkOf("image")
    net.layer("CONVOLUTION", ["image"], "main")
    net.layer("CONVOLUTION", ["image"], "skip")
    net.layer("ELEMENTWISE SUM", ["main", "skip"], "sum")
    with pytest.raises(BuildFailed, match="1 tensors of the network have no range"):
        bound(net, image=1.0, skip=2.0, sum=3.0)


def test_shapes_indices_and_conditions_need_no_range() -> None:
    net = NetworkOf("image")
    net.tensors["index"] = ITensor("index", DataType.INT32)
    net.tensors["shape"] = ITensor("shape", is_shape=True)
    net.layer("SHAPE", ["image"], "shape")
    net.layer("GATHER", ["image", "index"], "picked")
    coverage = coverage_of(MODULE, net.built(), table(image=2.0))
    assert set(coverage.ranges) == {"image", "picked"}
    assert coverage.gaps == ()


def test_a_gap_names_tensor_and_layer_and_nothing_is_bound() -> None:
    net = NetworkOf("image")
    net.layer("ACTIVATION SOFTPLUS", ["image"], "Mish_y_output")
    net.layer("ACTIVATION TANH", ["Mish_y_output"], "tanh")
    with pytest.raises(BuildFailed) as raised:
        bound(net, image=1.0)
    assert str(raised.value).startswith(
        "1 tensors of the network have no range, and TensorRT would run the layers around them in float without a "
        "word: 'Mish_y_output', written by ACTIVATION SOFTPLUS layer 'layer_0', is in no table and follows from no "
        "neighbour. Write the operator"
    )
    assert all(tensor.dynamic_range is None for tensor in net.tensors.values())
    (gap,) = coverage_of(MODULE, net.built(), table(image=1.0)).gaps
    assert gap.readers == ("ACTIVATION TANH layer 'layer_1'",)


def test_many_gaps_are_counted_and_an_input_without_a_range_is_one() -> None:
    net = NetworkOf("image", "other")
    for index in range(7):
        net.layer("CONVOLUTION", ["image"], f"conv_{index}")
    with pytest.raises(
        BuildFailed, match=r"8 tensors .*'other', written by the network's input, .*; and 3 more\. Write"
    ):
        bound(net, image=1.0)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_constant_that_is_not_finite_is_a_gap(value: float) -> None:
    net = NetworkOf("image")
    net.layer("CONSTANT", [], "mask", weights=np.array([0, value], np.float32))
    with pytest.raises(BuildFailed, match="'mask', written by CONSTANT layer 'layer_0', holds an infinity or NaN"):
        bound(net, image=1.0)


def test_a_table_of_another_graph_is_refused_at_once() -> None:
    with pytest.raises(BuildFailed, match=r"no tensor of the network is in the table of ranges of model\.fp32\.onnx"):
        bound(NetworkOf("image"), input=1.0)


def test_names_of_the_table_that_the_parser_dropped_are_told() -> None:
    coverage = coverage_of(MODULE, NetworkOf("image").built(), table(image=1.0, fused=2.0))
    assert coverage.unused == ("fused",)
    assert str(coverage) == (
        "1 of 1 float tensors have a range: 1 by name, 0 by what the parser made of them; "
        "1 names of the table are not in the network"
    )


def test_a_range_that_tensorrt_does_not_take_is_an_error() -> None:
    net = NetworkOf("image")
    net.tensors["conv"] = ITensor("conv", refuses=True)
    net.layer("CONVOLUTION", ["image"], "conv")
    with pytest.raises(BuildFailed, match=r"did not take the range \[-2, 2\] of tensor 'conv': it has None"):
        bound(net, image=1.0, conv=2.0)


def test_tensors_without_a_name_of_their_own_are_refused() -> None:
    net = NetworkOf("image")
    net.layer("SHUFFLE", ["image"], "")
    with pytest.raises(BuildFailed, match="a tensor of the network has no name"):
        bound(net, image=1.0)
    twice = NetworkOf("image")
    twice.layer("SHUFFLE", ["image"], "image")
    with pytest.raises(BuildFailed, match="two tensors of the network are called 'image'"):
        bound(twice, image=1.0)


@pytest.mark.parametrize("version", ["10.3", "10.16"])
def test_every_rule_is_of_a_layer_that_tensorrt_has(version: str) -> None:
    known = json.loads((API / f"tensorrt-{version}.json").read_text())["api"]
    operations = {
        "ACTIVATION": "ActivationType",
        "ELEMENTWISE": "ElementWiseOperation",
        "POOLING": "PoolingType",
        "REDUCE": "ReduceOperation",
        "RESIZE": "InterpolationMode",
        "UNARY": "UnaryOperation",
    }
    for rule in {*KEEPS, *BOUNDED, *CUTS} - (LATER if version == "10.3" else set()):
        kind, _, operation = rule.partition(" ")
        assert kind in known["LayerType"]["members"]
        assert (kind in operations) == bool(operation)
        assert not operation or operation in known[operations[kind]]["members"]


# What TensorRT-RTX's own parser makes of real files; it has no ranges, so a recording stand-in takes them.


NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "residual": (residual, (1, 8, 8)),
    "attention": (attention, (16, 32)),
    "own": (own_network, (1, 8, 8)),
}


def parsed(model: onnx.ModelProto) -> tuple[Any, Any, tuple[Any, ...]]:
    """(module, network, what must live as long as the network)."""
    if missing := TensorRTRTX.module.why_missing():
        pytest.skip(missing)
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(model.SerializeToString())
    return trt, network, (builder, parser)


def table_of(model: onnx.ModelProto, folder: Path, *shape: int) -> RangeTable:
    batch = Batch([str(index) for index in range(8)], {model.graph.input[0].name: images(8, *shape)})
    ranges = ranges_from_sketches(collect(model, [batch], threads=1), "minmax")
    (folder / "ranges.json").write_bytes(range_table(model, ranges, GraphFile("m.onnx", "ab")).to_bytes())
    return RangeTable.load(folder / "ranges.json")


@pytest.mark.parametrize(
    ("name", "invented"), [("residual", 4), ("attention", 29), ("own", 4)], ids=["residual", "attention", "own"]
)
def test_every_tensor_of_a_really_parsed_network_gets_its_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, invented: int
) -> None:
    make, shape = NETWORKS[name]
    model = prepared(make())
    ranges = table_of(model, tmp_path, *shape)
    trt, network, _alive = parsed(model)
    took: dict[str, tuple[float, float]] = {}

    def set_dynamic_range(tensor: Any, low: float, high: float) -> bool:
        took[tensor.name] = (low, high)
        return True

    monkeypatch.setattr(trt.ITensor, "set_dynamic_range", set_dynamic_range, raising=False)
    monkeypatch.setattr(trt.ITensor, "dynamic_range", property(lambda each: took.get(each.name)), raising=False)
    coverage: Coverage = bind_ranges(trt, network, ranges)
    assert (coverage.gaps, coverage.unused) == ((), ())
    assert coverage.invented == invented
    assert took.keys() == coverage.ranges.keys()
    assert {tensor: took[tensor] for tensor in ranges.amax} == {k: (-v, v) for k, v in ranges.amax.items()}


def test_tensorrt_11_and_rtx_take_no_ranges(tmp_path: Path) -> None:
    model = prepared(residual())
    trt, network, _alive = parsed(model)
    with pytest.raises(BuildFailed, match=r"tensorrt_rtx 1\S* takes no ranges beside a graph: build the Q/DQ graph"):
        bind_ranges(trt, network, table_of(model, tmp_path, 1, 8, 8))


# The file.


def document(**changes: object) -> str:
    good = {
        "schema_version": 1,
        "kind": "tensorrt-ranges",
        "graph": {"name": "m.onnx", "sha256": "ab"},
        "method": "entropy",
        "images": 8,
        "tensors": {"image": {"amax": 1.5}},
    }
    return json.dumps({**good, **changes})


def test_a_table_is_read_as_calibration_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_text(document())
    found = RangeTable.load(tmp_path / "ranges.json")
    assert found == RangeTable("m.onnx", "ab", "entropy", 8, {"image": 1.5})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no table of ranges"),
        ("[1]", "is no table of ranges"),
        (document()[:40], "is no table of ranges"),
        (document(kind="ranges"), "it is ranges 1, this version reads tensorrt-ranges 1"),
        (document(schema_version=2), "it is tensorrt-ranges 2, this version reads tensorrt-ranges 1"),
        (document(tensors={}), "it lists no tensor"),
        (document(tensors={"x": {"amax": 0}}), "the amax of tensor 'x' is 0; INT8 needs a finite one above zero"),
        (document(tensors={"x": {"amax": -1.0}}), "the amax of tensor 'x' is -1.0; INT8 needs"),
        (document(tensors={"x": {"amax": 1e39}}), "the amax of tensor 'x' is 1e[+]39; INT8 needs"),
        (document(tensors={"x": {"amax": float("nan")}}), "the amax of tensor 'x' is nan; INT8 needs"),
        (document(tensors={"x": {"amax": "1"}}), "the amax of tensor 'x' is '1', no number"),
        (document(tensors={"x": {"amax": True}}), "the amax of tensor 'x' is True, no number"),
        (document(tensors={"x": 1.0}), "is no table of ranges"),
        (document(graph="m.onnx"), "is no table of ranges"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(EngineDamaged, match=r"ranges\.json: is no table of ranges .*calibrate again") as raised:
        RangeTable.load(tmp_path / "ranges.json")
    assert raised.match(said)


def test_a_table_binds_to_the_file_it_was_made_for(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    onnx.save(residual(), file)
    good = RangeTable("m.onnx", sha256_of_file(file), "entropy", 8, {"image": 1.0})
    good.check_graph(file)
    other = RangeTable("m.onnx", "cd" * 32, "entropy", 8, {"image": 1.0})
    with pytest.raises(BuildFailed, match=r"m\.onnx: SHA-256 is .*…, and the table of ranges is of m.onnx with cdcdcd"):
        other.check_graph(file)
    with pytest.raises(BuildFailed, match=r"no\.onnx: cannot be read"):
        good.check_graph(tmp_path / "no.onnx")
