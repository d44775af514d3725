"""Plans built for real by TensorRT-RTX, which needs no GPU for that, and the layers that their log shows."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tensorrt_graphs import PLAIN, QUANTIZED, RTX, TARGET, needs_tensorrt_rtx, quantization, weights, written

from engines.audit import RealizedLayer, summarize
from engines.base import StepDone, Target
from engines.builder_options import BuilderOptions
from engines.errors import BuildCancelled
from engines.files import sha256_of_file


def product_of(layers: tuple[RealizedLayer, ...], node: str) -> RealizedLayer:
    [found] = [layer for layer in layers if node in layer.products]
    return found


def asked_layers(tmp_path: Path, nodes: str, constants: Mapping[str, NDArray[np.generic]]) -> tuple[RealizedLayer, ...]:
    return RTX.build(written(tmp_path, nodes, constants), "int8", TARGET, tmp_path / "e.plan").layers


@needs_tensorrt_rtx
def test_an_fp32_plan_is_built_without_a_gpu_and_without_tf32(tmp_path: Path) -> None:
    to = tmp_path / "fp32.plan"
    built = RTX.build(written(tmp_path, PLAIN, weights()), "fp32", TARGET, to)
    assert built.file == to
    assert (built.bytes, built.sha256) == (to.stat().st_size, sha256_of_file(to))
    assert built.settings["tf32"] is False
    assert built.settings["profiles"][0]["batch"] == {"min": 1, "opt": 2, "max": 4}
    assert built.versions == RTX.versions() != {}
    assert built.log == ()
    audit = summarize(built.layers)
    assert (audit.products, audit.float32, audit.float_products) == (2, 2, ("conv1", "conv2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32.plan", "model.onnx"]


@needs_tensorrt_rtx
def test_an_fp16_graph_runs_in_fp16_and_keeps_tf32_for_the_rest(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights(np.float16), "float16")
    built = RTX.build(graph, "fp16", TARGET, tmp_path / "e.plan")
    assert built.settings["tf32"] is True
    assert (summarize(built.layers).float16, summarize(built.layers).products) == (2, 2)


@needs_tensorrt_rtx
def test_int8_convolutions_take_both_operands_in_int8_and_keep_their_onnx_names(tmp_path: Path) -> None:
    layers = asked_layers(tmp_path, QUANTIZED, weights() | quantization())
    audit = summarize(layers)
    assert (audit.products, audit.int8, audit.float_products) == (2, 2, ())
    conv = product_of(layers, "conv2")
    assert (conv.kind, conv.operator) == ("convolution", "correlation")
    assert (conv.inputs[0].dtype, conv.inputs[0].dims) == ("int8", (-1, 16, 8, 8))
    assert next((t.dtype, t.dims) for t in conv.inputs if t.constant) == ("int8", (16, 16, 3, 3))
    assert conv.inputs[0].format.startswith("(NHWC")
    # The kernel that requantizes names conv1 too, and is no product.
    assert len([layer for layer in layers if "conv1" in layer.onnx_nodes]) > 1


@needs_tensorrt_rtx
def test_a_weight_in_int8_with_a_float_activation_does_not_count(tmp_path: Path) -> None:
    nodes = QUANTIZED.replace("Conv<pads=[1,1,1,1]>(xd", "Conv<pads=[1,1,1,1]>(x")
    layers = asked_layers(tmp_path, nodes, weights() | quantization())
    audit = summarize(layers)
    assert (audit.products, audit.int8, audit.float_products) == (2, 1, ("conv1",))


@needs_tensorrt_rtx
def test_attention_in_one_kernel_is_a_product(tmp_path: Path) -> None:
    nodes = "k = Relu(x)\nv = Neg(x)\n[attention] y = Attention(x, k, v)"
    graph = written(tmp_path, nodes, {}, "float16", x="N,2,16,32", opset=23)
    layers = RTX.build(graph, "fp16", TARGET, tmp_path / "e.plan").layers
    [layer] = [layer for layer in layers if layer.kind == "attention"]
    assert "attention" in layer.onnx_nodes
    assert [tensor.dtype for tensor in layer.inputs] == ["float16"] * 3
    assert summarize(layers).float16 == 1


@needs_tensorrt_rtx
def test_a_product_too_small_for_a_library_kernel_is_still_found(tmp_path: Path) -> None:
    graph = written(tmp_path, "[small] y = MatMul(x, w)", {"w": np.ones((3, 2), np.float32)}, x="N,1,1,3")
    layers = RTX.build(graph, "fp32", TARGET, tmp_path / "e.plan").layers
    assert product_of(layers, "small").kind == "matmul"


@needs_tensorrt_rtx
def test_depthwise_and_transposed_convolutions_are_convolutions(tmp_path: Path) -> None:
    constants = {"d": np.ones((16, 1, 3, 3), np.float32), "t": np.ones((16, 16, 2, 2), np.float32)}
    nodes = "[deep] a = Conv<group=16>(x, d)\n[up] y = ConvTranspose<strides=[2,2]>(a, t)"
    layers = RTX.build(written(tmp_path, nodes, constants), "fp32", TARGET, tmp_path / "e.plan").layers
    assert [product_of(layers, node).kind for node in ("deep", "up")] == ["convolution"] * 2


@needs_tensorrt_rtx
def test_a_node_name_may_hold_what_the_log_is_punctuated_with(tmp_path: Path) -> None:
    graph = written(tmp_path, "[odd] y = MatMul(x, w)", {"w": np.eye(16, dtype=np.float32)}, x="N,1,8,16")
    model = onnx.load(graph)
    model.graph.node[0].name = name = "a], Outputs: [ { b, LayerType: {c}"
    onnx.save(model, graph)
    assert product_of(RTX.build(graph, "fp32", TARGET, tmp_path / "e.plan").layers, name).kind == "matmul"


@needs_tensorrt_rtx
def test_a_static_batch_needs_no_profile_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights(), x="2,16,8,8")
    first, second = (RTX.build(graph, "fp32", TARGET, tmp_path / f"{name}.plan") for name in "ab")
    assert first.settings["profiles"] == ()
    assert first.sha256 == second.sha256


@needs_tensorrt_rtx
def test_compute_capabilities_and_workspace_are_read_back(tmp_path: Path) -> None:
    options = BuilderOptions(workspace_bytes=1 << 28)
    target = Target("t", "tensorrt-rtx", compute_capabilities=("8.6", "12.0"), builder=options)
    built = RTX.build(written(tmp_path, PLAIN, weights()), "fp32", target, tmp_path / "e.plan")
    assert built.settings["compute_capabilities"] == ["8.6", "12.0"]
    assert built.settings["workspace_bytes"] == 1 << 28


def build(tmp_path: Path, on_step: StepDone) -> Path:
    to = tmp_path / "e.plan"
    RTX.build(written(tmp_path, PLAIN, weights()), "fp32", TARGET, to, on_step)
    return to


@needs_tensorrt_rtx
def test_progress_is_reported_by_phase_and_never_past_its_end(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []

    def on_step(phase: str, done: int, total: int) -> bool:
        steps.append((phase, done, total))
        return True

    build(tmp_path, on_step)
    assert ("Building engine", 0, 6) in steps
    assert ("Building engine", 6, 6) in steps
    assert all(0 <= done <= total for _, done, total in steps)


@needs_tensorrt_rtx
@pytest.mark.parametrize("after", [0, 5])
def test_a_build_is_cancelled_from_its_progress(tmp_path: Path, after: int) -> None:
    steps: list[str] = []

    def on_step(phase: str, _done: int, _total: int) -> bool:
        steps.append(phase)
        return len(steps) <= after

    with pytest.raises(BuildCancelled, match=r"model\.onnx: the build was cancelled; nothing was written"):
        build(tmp_path, on_step)
    assert len(steps) == after + 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@needs_tensorrt_rtx
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_a_progress_callback_raises_comes_out_as_it_is(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted(_phase: str, _done: int, _total: int) -> bool:
        raise error("mine")

    with pytest.raises(error, match="mine"):
        build(tmp_path, interrupted)
    assert not (tmp_path / "e.plan").exists()


@needs_tensorrt_rtx
def test_what_native_code_writes_past_the_logger_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def native(_phase: str, _done: int, _total: int) -> bool:
        os.write(2, b"Internal Error: MyelinCheckException\n")
        return True

    built = RTX.build(written(tmp_path, PLAIN, weights()), "fp32", TARGET, tmp_path / "e.plan", native)
    assert built.log[0] == "Internal Error: MyelinCheckException"
    assert capfd.readouterr().err == ""


@needs_tensorrt_rtx
def test_a_full_disk_leaves_neither_a_plan_nor_a_part_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path, lambda *_: True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
