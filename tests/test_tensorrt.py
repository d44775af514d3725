"""Plans built for real by TensorRT-RTX, which needs no GPU for that, and what is said where they cannot be built."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from engines import cuda
from engines.audit import RealizedLayer, summarize
from engines.base import (
    BatchProfile,
    BuildCancelled,
    BuildFailed,
    EngineDamaged,
    RuntimeMissing,
    StepDone,
    Target,
    sha256_of_file,
)
from engines.tensorrt import TensorRT, TensorRTRTX
from engines.tensorrt import engine as engine_file
from engines.tensorrt.layers import UnreadableLayers, realized_layers
from engines.tensorrt.log import Recorder, captured_stderr, readable

RTX = TensorRTRTX()
TARGET = Target("rtx", "tensorrt-rtx", batch=BatchProfile(1, 2, 4))
WITHOUT = RTX.why_not_build(TARGET)
rtx = pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))

RESIDUAL = """
  [conv1] a = Conv<pads=[1,1,1,1]>({x}, {w1}, b1)
  [relu1] r = Relu(a)
  [conv2] c = Conv<pads=[1,1,1,1]>({r}, {w2}, b1)
  [add] s = Add(c, r)
  [relu2] t = Relu(s)
"""
PLAIN = RESIDUAL.format(x="x", w1="w1", r="r", w2="w2") + "\n  [pool] y = GlobalAveragePool(t)"
# Both operands of conv1 and conv2 go through Q/DQ, the residual stays in float.
QUANTIZED = """
  xq = QuantizeLinear(x, one, zero)
  xd = DequantizeLinear(xq, one, zero)
  w1q = QuantizeLinear<axis=0>(w1, many, zeros)
  w1d = DequantizeLinear<axis=0>(w1q, many, zeros)
  [conv1] a = Conv<pads=[1,1,1,1]>(xd, w1d, b1)
  [relu1] r = Relu(a)
  rq = QuantizeLinear(r, one, zero)
  rd = DequantizeLinear(rq, one, zero)
  w2q = QuantizeLinear<axis=0>(w2, many, zeros)
  w2d = DequantizeLinear<axis=0>(w2q, many, zeros)
  [conv2] c = Conv<pads=[1,1,1,1]>(rd, w2d, b1)
  [add] s = Add(c, r)
  [relu2] t = Relu(s)
  [pool] y = GlobalAveragePool(t)
"""


def weights(dtype: type[np.generic] = np.float32) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(0)
    return {
        "w1": random.standard_normal((16, 16, 3, 3)).astype(dtype),
        "w2": random.standard_normal((16, 16, 3, 3)).astype(dtype),
        "b1": np.zeros(16, dtype),
    }


def quantization(zero: int = 0, zero_type: type[np.integer] = np.int8) -> dict[str, NDArray[np.generic]]:
    return {
        "one": np.array(0.05, np.float32),
        "zero": np.array(zero, zero_type),
        "many": np.full(16, 0.02, np.float32),
        "zeros": np.zeros(16, np.int8),
    }


def written(
    folder: Path, nodes: str, constants: dict[str, NDArray[np.generic]], dtype: str = "float", x: str = "N,16,8,8"
) -> Path:
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({dtype}[{x}] x) => ({dtype}[N,?,?,?] y) {{ {nodes} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def product_of(layers: tuple[RealizedLayer, ...], node: str) -> RealizedLayer:
    [found] = [layer for layer in layers if node in layer.products]
    return found


def asked_layers(tmp_path: Path, nodes: str, constants: dict[str, NDArray[np.generic]]) -> tuple[RealizedLayer, ...]:
    return RTX.build(written(tmp_path, nodes, constants), "int8", TARGET, tmp_path / "e.plan").layers


@rtx
def test_an_fp32_plan_is_built_without_a_gpu_and_without_tf32(tmp_path: Path) -> None:
    to = tmp_path / "fp32.plan"
    built = RTX.build(written(tmp_path, PLAIN, weights()), "fp32", TARGET, to)
    assert built.file == to
    assert (built.bytes, built.sha256) == (to.stat().st_size, sha256_of_file(to))
    assert built.settings["tf32"] is False
    assert built.settings["batch"] == {"min": 1, "opt": 2, "max": 4}
    assert built.versions == RTX.versions() != {}
    assert built.log == ()
    audit = summarize(built.layers)
    assert (audit.products, audit.float32, audit.float_products) == (2, 2, ("conv1", "conv2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32.plan", "model.onnx"]


@rtx
def test_an_fp16_graph_runs_in_fp16_and_keeps_tf32_for_the_rest(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights(np.float16), "float16")
    built = RTX.build(graph, "fp16", TARGET, tmp_path / "e.plan")
    assert built.settings["tf32"] is True
    assert (summarize(built.layers).float16, summarize(built.layers).products) == (2, 2)


@rtx
def test_int8_convolutions_take_both_operands_in_int8_and_keep_their_onnx_names(tmp_path: Path) -> None:
    layers = asked_layers(tmp_path, QUANTIZED, weights() | quantization())
    audit = summarize(layers)
    assert (audit.products, audit.int8, audit.float_products) == (2, 2, ())
    conv = product_of(layers, "conv2")
    assert (conv.kind, conv.operator) == ("convolution", "correlation")
    assert (conv.inputs[0].dtype, conv.inputs[0].dims) == ("int8", (-1, 16, 8, 8))
    assert [(t.dtype, t.dims) for t in conv.inputs if t.constant][0] == ("int8", (16, 16, 3, 3))
    assert conv.inputs[0].format.startswith("(NHWC")
    # The kernel that requantizes names conv1 too, and is no product.
    assert len([layer for layer in layers if "conv1" in layer.onnx_nodes]) > 1


@rtx
def test_a_weight_in_int8_with_a_float_activation_does_not_count(tmp_path: Path) -> None:
    layers = asked_layers(tmp_path, QUANTIZED.replace("Conv<pads=[1,1,1,1]>(xd", "Conv<pads=[1,1,1,1]>(x"),
                          weights() | quantization())  # fmt: skip
    audit = summarize(layers)
    assert (audit.products, audit.int8, audit.float_products) == (2, 1, ("conv1",))


ATTENTION = """
  [scores] a = MatMul({q}, {k})
  [softmax] p = Softmax(a)
  [mixed] y = MatMul({p}, {v})
"""


@rtx
def test_fused_attention_counts_as_one_product_of_two_nodes(tmp_path: Path) -> None:
    nodes = "k = Transpose<perm=[0,1,3,2]>(x)\n" + "".join(
        f"{t}q = QuantizeLinear({t}, one, zero)\n{t}d = DequantizeLinear({t}q, one, zero)\n" for t in ("x", "k")
    )
    nodes += "[scores] a = MatMul(xd, kd)\n[softmax] p = Softmax(a)\npq = QuantizeLinear(p, one, zero)\n"
    nodes += "pd = DequantizeLinear(pq, one, zero)\n[values] o = MatMul(pd, xd)\noq = QuantizeLinear(o, one, zero)\n"
    layers = asked_layers(tmp_path, nodes + "y = DequantizeLinear(oq, one, zero)", quantization())
    assert product_of(layers, "scores") is product_of(layers, "values")
    assert (summarize(layers).products, summarize(layers).int8) == (1, 1)


@rtx
def test_a_product_too_small_for_a_library_kernel_is_still_found(tmp_path: Path) -> None:
    graph = written(tmp_path, "[small] y = MatMul(x, w)", {"w": np.ones((3, 2), np.float32)}, x="N,1,1,3")
    layers = RTX.build(graph, "fp32", TARGET, tmp_path / "e.plan").layers
    assert product_of(layers, "small").kind == "matmul"


@rtx
def test_depthwise_and_transposed_convolutions_are_convolutions(tmp_path: Path) -> None:
    constants = {"d": np.ones((16, 1, 3, 3), np.float32), "t": np.ones((16, 16, 2, 2), np.float32)}
    nodes = "[deep] a = Conv<group=16>(x, d)\n[up] y = ConvTranspose<strides=[2,2]>(a, t)"
    layers = RTX.build(written(tmp_path, nodes, constants), "fp32", TARGET, tmp_path / "e.plan").layers
    assert [product_of(layers, node).kind for node in ("deep", "up")] == ["convolution"] * 2


@rtx
def test_a_node_name_may_hold_what_the_log_is_punctuated_with(tmp_path: Path) -> None:
    graph = written(tmp_path, "[odd] y = MatMul(x, w)", {"w": np.eye(16, dtype=np.float32)}, x="N,1,8,16")
    model = onnx.load(graph)
    model.graph.node[0].name = name = "a], Outputs: [ { b, LayerType: {c}"
    onnx.save(model, graph)
    assert product_of(RTX.build(graph, "fp32", TARGET, tmp_path / "e.plan").layers, name).kind == "matmul"


@rtx
def test_a_static_batch_needs_no_profile_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights(), x="2,16,8,8")
    first, second = (RTX.build(graph, "fp32", TARGET, tmp_path / f"{name}.plan") for name in "ab")
    assert first.settings["batch"] is None
    assert first.sha256 == second.sha256


@rtx
def test_compute_capabilities_and_workspace_are_read_back(tmp_path: Path) -> None:
    target = Target("t", "tensorrt-rtx", compute_capabilities=("8.6", "12.0"), workspace_bytes=1 << 28)
    built = RTX.build(written(tmp_path, PLAIN, weights()), "fp32", target, tmp_path / "e.plan")
    assert built.settings["compute_capabilities"] == ["8.6", "12.0"]
    assert built.settings["workspace_bytes"] == 1 << 28


@rtx
def test_weights_beside_the_graph_are_found_and_missed_when_gone(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights())
    onnx.save(onnx.load(graph), graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    RTX.build(graph, "fp32", TARGET, tmp_path / "e.plan")
    (tmp_path / "weights.bin").unlink()
    refusal = refused(graph, tmp_path)
    assert "Failed to import initializer: w1; weights in a file of their own must lie beside the graph" in refusal


def refused(graph: Path, tmp_path: Path, precision: str = "fp32", target: Target = TARGET) -> str:
    to = tmp_path / "refused.plan"
    to.write_text("of an earlier build")
    with pytest.raises(BuildFailed) as caught:
        RTX.build(graph, precision, target, to)
    assert not to.exists()
    assert "/_src/" not in str(caught.value)
    return str(caught.value)


@rtx
def test_an_unknown_operator_is_refused_with_node_and_operator(tmp_path: Path) -> None:
    graph = written(tmp_path, "[first] a = Relu(x)\n[second] y = Sqrt(a)", {})
    model = onnx.load(graph)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Blend", "acme"
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    onnx.save(model, graph)
    assert refused(graph, tmp_path) == (
        f"{graph}: TensorRT's parser refuses it: node 'second' (Blend): Plugin not found, are the plugin name, "
        "version, and namespace correct?"
    )


@rtx
def test_a_zero_point_is_refused_with_the_way_out(tmp_path: Path) -> None:
    said = refused(written(tmp_path, QUANTIZED, weights() | quantization(3)), tmp_path, "int8")
    assert "(QuantizeLinear): Non-zero zero point is not supported." in said
    assert said.endswith("calibrate for the family of this runtime: signed, symmetric, zero-point 0")


@rtx
def test_uint8_that_tensorrt_would_quietly_clip_is_refused(tmp_path: Path) -> None:
    graph = written(tmp_path, QUANTIZED, weights() | quantization(0, np.uint8))
    assert "it quantizes to UINT8, which TensorRT would take for INT8 and clip" in refused(graph, tmp_path, "int8")


@rtx
@pytest.mark.parametrize(
    ("x", "said"),
    [("N,16,H,8", "input 'x' has shape [-1, 16, -1, 8]: only its first dimension, the batch, may be dynamic; fix")],
)
def test_another_dynamic_dimension_than_the_batch_is_refused(tmp_path: Path, x: str, said: str) -> None:
    assert said in refused(written(tmp_path, PLAIN, weights(), x=x), tmp_path)


@rtx
@pytest.mark.parametrize("batch", [BatchProfile(0, 1, 2), BatchProfile(2, 1, 4), BatchProfile(1, 8, 4)])
def test_batch_sizes_that_do_not_rise_are_refused(tmp_path: Path, batch: BatchProfile) -> None:
    said = refused(written(tmp_path, PLAIN, weights()), tmp_path, target=Target("t", "tensorrt-rtx", batch=batch))
    assert "must be at least 1 and rise from min to max" in said


@rtx
def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"hello world" * 20)
    assert refused(noise, tmp_path) == f"{noise}: there is no network in it; is it an ONNX file?"
    assert refused(tmp_path / "no.onnx", tmp_path) == f"{tmp_path}/no.onnx: there is no such file to build from"


@rtx
def test_a_builder_error_says_what_the_builder_said_and_what_to_change(tmp_path: Path) -> None:
    target = Target("t", "tensorrt-rtx", workspace_bytes=1 << 12)
    said = refused(written(tmp_path, PLAIN, weights()), tmp_path, target=target)
    assert "TensorRT's builder failed: Error Code 1: Myelin (Tactic Selection: no tactics to implement" in said
    assert said.endswith("; raise workspace_bytes of the target")


@rtx
def test_an_unknown_precision_is_refused_with_the_choice(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights())
    assert refused(graph, tmp_path, "fp8") == "target 'rtx': precision 'fp8' is unknown; choose from fp32, fp16, int8"


@rtx
def test_an_unknown_compute_capability_is_refused_with_those_it_knows(tmp_path: Path) -> None:
    target = Target("hopper", "tensorrt-rtx", compute_capabilities=("9.0", "8.6"))
    said = refused(written(tmp_path, PLAIN, weights()), tmp_path, target=target)
    assert said == RTX.why_not_build(target)
    assert "does not build for compute capability 9.0; choose from 7.5, 8.0, 8.6, 8.9, 12.0, 12.1, or name" in said


@rtx
def test_turing_takes_no_fp32_and_takes_fp16(tmp_path: Path) -> None:
    turing = ("7.5",)
    said = RTX.why_not_build(Target("t4", "tensorrt-rtx", ("fp32", "fp16"), compute_capabilities=turing))
    assert said is not None
    assert said.startswith("target 't4': compute capability 7.5 takes no fp32 with TensorRT-RTX")
    target = Target("t4", "tensorrt-rtx", ("fp16",), compute_capabilities=turing)
    graph = written(tmp_path, PLAIN, weights(np.float16), "float16")
    assert RTX.build(graph, "fp16", target, tmp_path / "e.plan").settings["compute_capabilities"] == ["7.5"]


def build(tmp_path: Path, on_step: StepDone) -> Path:
    to = tmp_path / "e.plan"
    RTX.build(written(tmp_path, PLAIN, weights()), "fp32", TARGET, to, on_step)
    return to


@rtx
def test_progress_is_reported_by_phase_and_never_past_its_end(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    build(tmp_path, lambda *step: steps.append(step) is None)
    assert ("Building engine", 0, 6) in steps
    assert ("Building engine", 6, 6) in steps
    assert all(0 <= done <= total for _, done, total in steps)


@rtx
@pytest.mark.parametrize("after", [0, 5])
def test_a_build_is_cancelled_from_its_progress(tmp_path: Path, after: int) -> None:
    steps: list[str] = []
    with pytest.raises(BuildCancelled, match=r"model\.onnx: the build was cancelled; nothing was written"):
        build(tmp_path, lambda phase, _done, _total: steps.append(phase) is not None or len(steps) <= after)
    assert len(steps) == after + 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@rtx
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_a_progress_callback_raises_comes_out_as_it_is(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted(_phase: str, _done: int, _total: int) -> bool:
        raise error("mine")

    with pytest.raises(error, match="mine"):
        build(tmp_path, interrupted)
    assert not (tmp_path / "e.plan").exists()


@rtx
def test_what_native_code_writes_past_the_logger_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def native(_phase: str, _done: int, _total: int) -> bool:
        os.write(2, b"Internal Error: MyelinCheckException\n")
        return True

    built = RTX.build(written(tmp_path, PLAIN, weights()), "fp32", TARGET, tmp_path / "e.plan", native)
    assert built.log[0] == "Internal Error: MyelinCheckException"
    assert capfd.readouterr().err == ""


@rtx
def test_a_full_disk_leaves_neither_a_plan_nor_a_part_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path, lambda *_: True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
