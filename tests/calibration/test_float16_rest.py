"""INT8 and FP8 products with half precision beside them: numbers, types, and what TensorRT-RTX builds of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images, residual
from tensorrt_graphs import RTX, needs_tensorrt_rtx

from calibration.errors import GraphRefused
from calibration.float16_rest import fp8_graph, with_float16_rest
from calibration.lint import lint
from calibration.placement.place import Placement, place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from engines.audit import Audit, summarize
from engines.base import AxisProfile, Target

NETWORKS: dict[str, tuple[Callable[[], ModelProto], tuple[int, ...]]] = {
    "residual": (residual, (1, 8, 8)),
    "attention": (lambda: attention(tokens=32, width=32), (32, 32)),
}
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def measured(model: ModelProto, values: NDArray[np.float32]) -> tuple[ModelProto, Ranges, Placement]:
    model = prepared(model)
    batch = Batch([str(i) for i in range(len(values))], {model.graph.input[0].name: values})
    ranges = ranges_from_sketches(collect(model, [batch], threads=1), "minmax")
    return model, ranges, place(model, "tensorrt-rtx")


@cache
def calibrated(network: str, opset: int) -> tuple[ModelProto, Ranges, Placement]:
    model = NETWORKS[network][0]()
    model.opset_import[0].version = opset
    return measured(model, images(8, *NETWORKS[network][1]))


@cache
def plain(opset: int) -> tuple[ModelProto, Ranges, Placement]:
    """A network whose operators are the same from opset 13 on."""
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 16, 32))
    x = net.node("Relu", net.node("Add", net.conv(x, 32, 32), x))
    net.node("Sigmoid", net.conv(x, 32, 16), output="mask")
    model = net.model({"image": ["batch", 16, 8, 8]}, {"mask": ["batch", 16, 8, 8]}, opset)
    return measured(model, images(8, 16, 8, 8))


def mixed(found: tuple[ModelProto, Ranges, Placement], precision: str) -> ModelProto:
    model, ranges, placement = found
    if precision == "fp8":
        return fp8_graph(model, ranges, placement, ranges)[0]
    return with_float16_rest(quantize(model, ranges, placement), model, ranges)[0]


def run(model: ModelProto, values: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: values})[0]
    return output


def sqnr_db(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.sum(wanted**2) / max(float(np.sum((wanted - found) ** 2)), 1e-30)))


def built(model: ModelProto, folder: Path, *capabilities: str) -> Audit:
    target = Target("rtx", "tensorrt-rtx", compute_capabilities=capabilities, batch=AxisProfile(1, 2, 4))
    onnx.save(model, folder / "model.onnx")
    return summarize(RTX.build(folder / "model.onnx", "int8+fp16", target, folder / "model.plan").layers)


def scale_types(model: ModelProto) -> set[int]:
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    pairs = (node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear"))
    return {stored[node.input[1]] for node in pairs}


@pytest.mark.parametrize("precision", ["int8+fp16", "fp8"])
@pytest.mark.parametrize("opset", [13, 18, 19, 21, 22])
def test_checker_and_onnxruntime_take_the_graph_and_it_answers_like_the_float_one(opset: int, precision: str) -> None:
    graph, values = mixed(plain(opset), precision), images(8, 16, 8, 8)
    onnx.checker.check_model(graph, full_check=True)
    assert scale_types(graph) == {HALF if opset >= 19 or precision == "fp8" else FLOAT}
    assert sqnr_db(run(plain(opset)[0], values), run(graph, values)) > (20 if precision == "fp8" else 30)


@needs_tensorrt_rtx
@pytest.mark.parametrize("opset", [18, 19])
@pytest.mark.parametrize("network", NETWORKS)
def test_tensorrt_runs_every_product_in_int8_and_all_that_is_float_in_half_precision(
    network: str, opset: int, tmp_path: Path
) -> None:
    audit = built(mixed(calibrated(network, opset), "int8+fp16"), tmp_path)
    assert audit.float_products == ("node_logits",)
    assert (audit.int8, audit.float16, audit.float32, audit.other) == (audit.products - 1, 1, 0, 0)


@needs_tensorrt_rtx
@pytest.mark.parametrize("capability", ["8.9", "12.0"])
@pytest.mark.parametrize("network", NETWORKS)
def test_tensorrt_runs_every_product_in_fp8_on_ada_and_blackwell(network: str, capability: str, tmp_path: Path) -> None:
    audit = built(mixed(calibrated(network, 18), "fp8"), tmp_path, capability)
    assert audit.float_products == ("node_logits",)
    assert (audit.float8, audit.float16, audit.float32, audit.int8) == (audit.products - 1, 1, 0, 0)


def test_fp8_scales_are_amax_over_448_and_a_weight_has_one() -> None:
    model, ranges, placement = calibrated("residual", 18)
    graph = mixed((model, ranges, placement), "fp8")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    assert stored["relu_1_scale_float16"] == np.float16(np.float32(ranges.of("relu_1").amax / 448))
    weight = placement.weights[1].tensor
    values = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == weight)
    assert stored[f"{weight}_scale_float16"].shape == ()
    numbers = stored[f"{weight}_quantized"].astype(np.float32)
    assert float(np.abs(numbers).max()) == 448
    scale = np.abs(values).max() / 448
    # E4M3 keeps three bits behind the leading one, down to 2**-6.
    assert (np.abs(numbers * scale - values) <= np.maximum(np.abs(values) / 15.9, scale * 2**-9)).all()


def test_what_half_precision_cannot_hold_stays_float32_with_its_pair_and_says_why() -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 1, 16))
    huge = net.node("Mul", x, net.weight(np.array(60000, np.float32)))
    x = net.node("Relu", net.conv(huge, 16, 16))
    x = net.node("Mul", x, net.weight(np.array(1e-4, np.float32)))
    net.conv(net.conv(x, 16, 16), 16, 4, output="mask")
    model = net.model({"image": ["batch", 1, 8, 8]}, {"mask": ["batch", 4, 8, 8]}, opset=19)
    graph, ranges, placement = measured(model, images(8, 1, 8, 8))
    half, kept = with_float16_rest(quantize(graph, ranges, placement), graph, ranges)
    assert "half precision ends at 65504" in kept["node_mul_2"]
    assert {node.output[0]: node.input[0] for node in half.graph.node}["mul_2_quantized"] == "mul_2"  # no cast between
    values = images(8, 1, 8, 8)
    assert sqnr_db(run(graph, values), run(half, values)) > 20


def test_scales_that_half_precision_would_bend_stay_float32() -> None:
    model, ranges, placement = plain(19)
    small = ModelProto()
    small.CopyFrom(model)
    for tensor in small.graph.initializer:
        if tensor.name == placement.weights[0].tensor:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e-5), tensor.name))
    graph, _ = with_float16_rest(quantize(small, ranges, placement), small, ranges)
    assert scale_types(graph) == {HALF, FLOAT}


@pytest.mark.parametrize("precision", ["int8+fp16", "fp8"])
@pytest.mark.parametrize("opset", [18, 19])
def test_the_linter_has_nothing_against_them(opset: int, precision: str) -> None:
    assert lint(mixed(calibrated("attention", opset), precision), "tensorrt-rtx") == ()


@needs_tensorrt_rtx
@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        ((), "a portable engine would run on GPUs that have no FP8, which begins with 8.9; name newer ones in "),
        (("8.6", "8.9"), "compute capability 8.6 has no FP8, which begins with 8.9; "),
        (("8.9", "12.0"), ""),
    ],
)
def test_fp8_is_refused_for_gpus_that_have_none(capabilities: tuple[str, ...], said: str) -> None:
    found = RTX.why_refused(Target("rtx", "tensorrt-rtx", ("fp8",), capabilities)) or ""
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_a_graph_that_does_not_convert_to_the_opset_of_fp8_is_refused() -> None:
    model, ranges, placement = plain(18)
    broken = ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[1].op_type = "Unknown"
    with pytest.raises(GraphRefused, match=r"does not convert to opset 19 .* export it with opset 19 or later"):
        fp8_graph(broken, ranges, placement, ranges)
