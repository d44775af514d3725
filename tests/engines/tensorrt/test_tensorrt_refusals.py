"""What TensorRT refuses to build, and what is then said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tensorrt_graphs import PLAIN, QUANTIZED, RTX, TARGET, needs_tensorrt_rtx, quantization, weights, written

from engines.base import AxisProfile, Target
from engines.builder_options import BuilderOptions
from engines.errors import BuildFailed


def refused(graph: Path, tmp_path: Path, precision: str = "fp32", target: Target = TARGET) -> str:
    to = tmp_path / "refused.plan"
    to.write_text("of an earlier build")
    with pytest.raises(BuildFailed) as caught:
        RTX.build(graph, precision, target, to)
    assert not to.exists()
    assert "/_src/" not in str(caught.value)
    return str(caught.value)


@needs_tensorrt_rtx
def test_an_unknown_operator_is_refused_with_node_and_operator(tmp_path: Path) -> None:
    graph = written(tmp_path, "[first] a = Relu(x)\n[second] y = Sqrt(a)", {})
    model = onnx.load(graph)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Blend", "acme"
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    onnx.save(model, graph)
    assert refused(graph, tmp_path) == (
        f"{graph}: TensorRT's parser refuses it: node 'second' (Blend): Plugin not found; "
        "where it is a plugin of yours, its library must be loaded before: TensorRT looks it up by name and version"
    )


@needs_tensorrt_rtx
def test_a_zero_point_is_refused_with_the_way_out(tmp_path: Path) -> None:
    said = refused(written(tmp_path, QUANTIZED, weights() | quantization(3)), tmp_path, "int8")
    assert "(QuantizeLinear): Non-zero zero point is not supported." in said
    assert said.endswith("calibrate for the family of this runtime: signed, symmetric, zero-point 0")


@needs_tensorrt_rtx
def test_an_int32_bias_is_refused_with_the_way_out_and_without_the_failed_look_for_a_driver(tmp_path: Path) -> None:
    nodes = "bq = DequantizeLinear<axis=0>(bias, many, none)" + QUANTIZED.replace("w1d, b1)", "w1d, bq)")
    bias = {"bias": np.zeros(16, np.int32), "none": np.zeros(16, np.int32)}
    said = refused(written(tmp_path, nodes, weights() | quantization() | bias), tmp_path, "int8")
    assert "refuses it: node number 0 (DequantizeLinear): Error Code 4: API Usage Error (" in said
    assert said.endswith("; leave biases in float, they need no DequantizeLinear")
    assert "cudaError" not in said


@needs_tensorrt_rtx
def test_uint8_that_tensorrt_would_quietly_clip_is_refused(tmp_path: Path) -> None:
    graph = written(tmp_path, QUANTIZED, weights() | quantization(0, np.uint8))
    assert "it quantizes to UINT8, which TensorRT would take for INT8 and clip" in refused(graph, tmp_path, "int8")


@needs_tensorrt_rtx
@pytest.mark.parametrize("batch", [AxisProfile(0, 1, 2), AxisProfile(2, 1, 4), AxisProfile(1, 8, 4)])
def test_batch_sizes_that_do_not_rise_are_refused(tmp_path: Path, batch: AxisProfile) -> None:
    said = refused(written(tmp_path, PLAIN, weights()), tmp_path, target=Target("t", "tensorrt-rtx", batch=batch))
    assert "must be at least 1 and rise from min to max" in said


@needs_tensorrt_rtx
def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"hello world" * 20)
    assert refused(noise, tmp_path) == f"{noise}: there is no network in it; is it an ONNX file?"
    assert refused(tmp_path / "no.onnx", tmp_path) == f"{tmp_path}/no.onnx: there is no such file to build from"


@needs_tensorrt_rtx
def test_a_builder_error_says_what_the_builder_said_and_what_to_change(tmp_path: Path) -> None:
    target = Target("t", "tensorrt-rtx", builder=BuilderOptions(workspace_bytes=1 << 12))
    said = refused(written(tmp_path, PLAIN, weights()), tmp_path, target=target)
    assert "TensorRT's builder failed: Error Code 1: Myelin (Tactic Selection: no tactics to implement" in said
    assert said.endswith("; raise workspace_mb of the target")


@needs_tensorrt_rtx
def test_an_unknown_precision_is_refused_with_the_choice(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights())
    assert refused(graph, tmp_path, "fp4") == (
        "precision 'fp4' is unknown; choose from fp32, tf32, fp16, bf16, int8, int8+fp16, fp8"
    )


@needs_tensorrt_rtx
def test_an_unknown_compute_capability_is_refused_with_those_it_knows(tmp_path: Path) -> None:
    target = Target("hopper", "tensorrt-rtx", compute_capabilities=("9.0", "8.6"))
    said = refused(written(tmp_path, PLAIN, weights()), tmp_path, target=target)
    assert said == RTX.why_not_build(target)
    assert "does not build for compute capability 9.0; choose from 7.5, 8.0, 8.6, 8.9, 12.0, 12.1, or name" in said


@needs_tensorrt_rtx
def test_turing_takes_no_fp32_and_takes_fp16(tmp_path: Path) -> None:
    turing = ("7.5",)
    said = RTX.why_not_build(Target("t4", "tensorrt-rtx", ("fp32", "fp16"), compute_capabilities=turing))
    assert said is not None
    assert said.startswith("compute capability 7.5 takes no fp32 with TensorRT-RTX")
    target = Target("t4", "tensorrt-rtx", ("fp16",), compute_capabilities=turing)
    graph = written(tmp_path, PLAIN, weights(np.float16), "float16")
    assert RTX.build(graph, "fp16", target, tmp_path / "e.plan").settings["compute_capabilities"] == ["7.5"]


@needs_tensorrt_rtx
def test_weights_beside_the_graph_are_found_and_missed_when_gone(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights())
    onnx.save(onnx.load(graph), graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    RTX.build(graph, "fp32", TARGET, tmp_path / "e.plan")
    (tmp_path / "weights.bin").unlink()
    refusal = refused(graph, tmp_path)
    assert "Failed to import initializer: w1; weights in a file of their own must lie beside the graph" in refusal
