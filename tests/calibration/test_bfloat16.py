"""The BF16 graph: bfloat16 inside, float32 outside, wherever ONNX and the GPU have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images, residual
from pydantic import ValidationError
from small_training import invoke
from tensorrt_graphs import RTX, needs_tensorrt_rtx
from test_float16_rest import run, sqnr_db

from calibration.bfloat16 import NOT_OF_TENSORRT, bfloat16_from_float32
from calibration.errors import GraphRefused
from calibration.float16 import in_16_bits
from calibration.float_types import BFLOAT16, HALF, FloatType
from calibration.prepare import opset_of, prepared
from engines import ENGINES
from engines.audit import summarize
from engines.base import AxisProfile, Target
from engines.errors import BuildFailed
from engines.tensorrt.refusals import what_rtx_refuses, what_tensorrt_refuses
from pipeline.artifact import Artifacts, Graph, Graphs
from pipeline.building.fleet import graph_of
from pipeline.building.fleet_parity import reference_graph
from pipeline.building.target_settings import TargetSettings

NETWORKS: dict[str, tuple[Callable[[], ModelProto], tuple[int, ...]]] = {
    "residual": (residual, (1, 8, 8)),
    "attention": (attention, (16, 32)),
}
BF16, FLOAT = TensorProto.BFLOAT16, TensorProto.FLOAT


def float32_again(model: ModelProto) -> ModelProto:
    """The same numbers for a runtime without bfloat16: every weight as it was rounded, every cast to it a rounding."""
    found = ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        if tensor.data_type == BF16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in found.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == BF16:
            node.attribute[0].i = FLOAT
    return found


def with_an_einsum() -> ModelProto:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 1, 8))
    net.node("Einsum", x, net.weight(net.normal(8, 4)), equation="bchw,cd->bdhw", output="y")
    return net.model({"image": ["batch", 1, 8, 8]}, {"y": ["batch", 4, 8, 8]})


@pytest.mark.parametrize("network", NETWORKS)
def test_the_graph_answers_like_the_float_one_as_far_as_its_mantissa_goes(network: str) -> None:
    make, shape = NETWORKS[network]
    model, values = prepared(make()), images(16, *shape)
    graph, kept = bfloat16_from_float32(model)
    assert kept == {}
    assert {tensor.data_type for tensor in graph.graph.initializer} <= {BF16, TensorProto.INT64}
    wanted, found = run(model, values), run(float32_again(graph), values)
    assert found.dtype == np.float32
    assert 30 < sqnr_db(wanted, found) < 70  # 8 significant bits round by 2^-9 at most, and do round


def test_inputs_and_outputs_stay_float32_and_the_opset_is_one_whose_convolutions_take_it() -> None:
    model = prepared(residual())
    graph, _ = bfloat16_from_float32(model)
    onnx.checker.check_model(graph, full_check=True)
    assert list(graph.graph.input) == list(model.graph.input)
    assert list(graph.graph.output) == list(model.graph.output)
    assert (opset_of(model), opset_of(graph)) == (18, 22)
    assert [node.op_type for node in graph.graph.node].count("Cast") == 2


def test_what_half_precision_could_not_hold_needs_no_exception() -> None:
    net = NetworkBuilder()
    x = net.node("Mul", net.conv("image", 1, 4), net.weight(np.array(1e30, np.float32)))
    net.node("Relu", x, output="y")
    graph, kept = bfloat16_from_float32(prepared(net.model({"image": ["batch", 1, 8, 8]}, {"y": ["batch", 4, 8, 8]})))
    assert kept == {}
    assert (
        float(max(np.abs(numpy_helper.to_array(each).astype(np.float64)).max() for each in graph.graph.initializer))
        > 9e29
    )


def test_an_operator_without_bfloat16_stays_in_float32_between_casts() -> None:
    model, values = prepared(with_an_einsum()), images(4, 1, 8, 8)
    graph, kept = bfloat16_from_float32(model)
    assert list(kept.values()) == ["Einsum has no bfloat16 in opset 22"]
    assert sqnr_db(run(model, values), run(float32_again(graph), values)) > 30


def with_what_tensorrt_lacks() -> ModelProto:
    net = NetworkBuilder()
    x = net.node("HardSwish", net.conv("image", 16, 8))
    x = net.node("Mish", net.node("LpNormalization", net.conv(x, 8, 8), axis=1))
    net.node("ConvTranspose", x, net.weight(net.normal(8, 4, 2, 2)), strides=[2, 2], output="y")
    return net.model({"image": ["batch", 16, 8, 8]}, {"y": ["batch", 4, 16, 16]}, 22)


@needs_tensorrt_rtx
def test_what_tensorrt_lacks_in_bfloat16_stays_in_float32_and_the_rest_is_built_around_it(tmp_path: Path) -> None:
    graph, kept = bfloat16_from_float32(prepared(with_what_tensorrt_lacks()))
    assert sorted(kept.values()) == [f"TensorRT has no {each} in bfloat16" for each in NOT_OF_TENSORRT]
    onnx.save(graph, tmp_path / "bf16.onnx")
    target = Target("rtx", "tensorrt-rtx", ("bf16",), batch=AxisProfile(1, 2, 4))
    audit = summarize(RTX.build(tmp_path / "bf16.onnx", "bf16", target, tmp_path / "e.plan").layers)
    assert (audit.bfloat16, audit.float32) == (2, 1)


def test_a_graph_without_a_form_in_opset_22_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> ModelProto:
        raise RuntimeError("no adapter for Upsample")

    monkeypatch.setattr("calibration.newer_opset.converted", refused)
    said = r"does not convert to opset 22 \(no adapter for Upsample\); export it with opset 22 or later"
    with pytest.raises(GraphRefused, match=said):
        bfloat16_from_float32(prepared(residual()))


@needs_tensorrt_rtx
@pytest.mark.parametrize(("network", "capability"), [("residual", "8.0"), ("attention", "12.1")])
def test_tensorrt_computes_every_product_in_bfloat16(tmp_path: Path, network: str, capability: str) -> None:
    onnx.save(bfloat16_from_float32(prepared(NETWORKS[network][0]()))[0], tmp_path / "bf16.onnx")
    target = Target("rtx", "tensorrt-rtx", ("bf16",), (capability,), AxisProfile(1, 2, 4))
    audit = summarize(RTX.build(tmp_path / "bf16.onnx", "bf16", target, tmp_path / "e.plan").layers)
    assert audit.bfloat16 == audit.other == audit.products > 0


def products_alone(opset: int) -> ModelProto:
    """Of operators that take bfloat16 from opset 13 on."""
    net = NetworkBuilder()
    x = net.node("Relu", net.node("MatMul", "tokens", net.weight(net.normal(32, 64))))
    net.node("MatMul", x, net.weight(net.normal(64, 16)), output="y")
    return net.model({"tokens": ["batch", 16, 32]}, {"y": ["batch", 16, 16]}, opset)


@needs_tensorrt_rtx
@pytest.mark.parametrize("opset", [13, 15, 17])
@pytest.mark.parametrize(("precision", "to"), [("fp16", HALF), ("bf16", BFLOAT16)])
def test_graphs_of_older_opsets_build_in_the_type_that_they_say(
    tmp_path: Path, opset: int, precision: str, to: FloatType
) -> None:
    graph = in_16_bits(prepared(products_alone(opset)), {}, to)
    assert opset_of(graph) == opset
    onnx.save(graph, tmp_path / "old.onnx")
    target = Target("rtx", "tensorrt-rtx", (precision,), batch=AxisProfile(1, 2, 4))
    audit = summarize(RTX.build(tmp_path / "old.onnx", precision, target, tmp_path / "e.plan").layers)
    assert {"fp16": audit.float16, "bf16": audit.bfloat16}[precision] == audit.products == 2


def test_its_answers_are_held_against_the_exported_graph_which_onnxruntime_runs(tmp_path: Path) -> None:
    (tmp_path / "placement.json").write_text('{"missing_graphs": {}}')
    inputs, target = Artifacts([Graph(tmp_path), Graphs(tmp_path)]), Target("rtx", "tensorrt-rtx", ("fp16", "bf16"))
    assert graph_of(inputs, target, "bf16").name == "bf16.onnx"
    found = [reference_graph(inputs, target, precision).name for precision in target.precisions]
    assert found == ["fp16.onnx", "model.onnx"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(residual((8,)), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", image=images(4, 1, 8, 8))
    return tmp_path / "net.onnx"


def quantize(model: Path, *more: str) -> set[str]:
    data = ("--data", model.with_name("x.npz"))
    done = invoke("quantize", model, "--family", "tensorrt-rtx", "--repair", "none", *data, *more)
    assert done.exit_code == 0, done.stderr
    return {file.name for file in model.parent.glob("*.onnx")}


@needs_tensorrt_rtx
def test_the_commands_write_it_where_it_is_asked_for_and_build_nothing_else_as_bf16(model: Path) -> None:
    assert "net.bf16.onnx" not in quantize(model)
    assert "net.bf16.onnx" in quantize(model, "--bf16")
    common = ("--target", "tensorrt-rtx", "--precision", "bf16", "--out", model.with_name("e.plan"))
    done = invoke("build", model.with_name("net.bf16.onnx"), *common)
    assert done.exit_code == 0, done.stderr
    wrong = invoke("build", model.with_name("net.fp16.onnx"), *common)
    assert wrong.exit_code == 1
    assert "none of its 4 convolutions and products is in BF16; build the bf16.onnx that `edgestill" in wrong.stderr


def test_runtimes_and_gpus_without_bf16_are_refused_before_the_build(model: Path) -> None:
    turing = Target("t4", "tensorrt-rtx", ("bf16",), ("7.5",))
    said = "compute capability 7.5 has no BF16, which begins with 8.0; take 'bf16' out of its precisions, or 7.5 out"
    assert str(what_rtx_refuses(turing)).startswith(said)
    assert str(what_tensorrt_refuses(turing, "10.3.0")).startswith(said)
    with pytest.raises(BuildFailed, match="onnxruntime on a CPU has no BF16 kernels"):
        ENGINES["onnxruntime"].build(model, "bf16", Target("cpu", "onnxruntime"), model.with_name("e.onnx"))
    with pytest.raises(ValidationError, match="bf16 needs opset 22 and opset is 17; take 'bf16' out of precisions"):
        TargetSettings(runtime="tensorrt", precisions=("bf16",), opset=17)
