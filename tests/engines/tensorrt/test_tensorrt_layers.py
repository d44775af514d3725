"""The builder's list of layers as text, the log around it, and what a machine without TensorRT is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines import cuda
from engines.audit import summarize
from engines.base import Target
from engines.errors import RuntimeMissing
from engines.tensorrt import TensorRT, TensorRTRTX
from engines.tensorrt.layers import UnreadableLayers, realized_layers
from engines.tensorrt.log import Recorder, captured_stderr, readable
from engines.tensorrt.module import RuntimeModule

# The form that NVIDIA's documentation shows for TensorRT 10, on one line as its log writes it.
TENSORRT_10 = """Layers:
Name: conv1 + relu1, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: [1,16,8,8], \
Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], Outputs: [ { Name: y, Location: Device, \
Dimensions: [1,64,8,8], Format/Datatype: Row major linear FP32 }], ParameterType: Convolution, Kernel: [3,3], \
Weights: {"Type": "Int8", "Count": 9216}, Bias: {"Type": "Float", "Count": 64}, TacticName: sm80_xmma_fprop, \
TacticValue: 0xc5ae5f2ee4c3a7bc, StreamId: 0, Metadata: [ONNX Layer: conv1]\x1e[ONNX Layer: relu1]

Bindings:
x
y
"""

TENSOR = "{ Name: x, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, Format: (Linear) }"


def test_the_form_of_tensorrt_10_is_read_too() -> None:
    [layer] = realized_layers(TENSORRT_10, {"conv1": "convolution"})
    assert (layer.kind, layer.operator, layer.products) == ("convolution", "CaskConvolution", ("conv1",))
    assert layer.onnx_nodes == ("conv1", "relu1")
    assert [(tensor.dtype, tensor.constant) for tensor in layer.inputs] == [("int8", False), ("int8", True)]
    assert layer.outputs[0].dtype == "float32"
    assert summarize([layer]).int8 == 1


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Bindings:\nx", "it starts with 'Bindings"),
        ("Layers:\n\n\nI/O Tensors:\n", "it lists no layer"),
        ("Layers:\nconv1, relu1", "no layer at 'conv1, relu1'"),
        ("Layers:\nName: a, LayerType: kgen, Inputs: [ x ], Outputs: []", r"no tensor at ' x \], Outputs"),
        ("Layers:\nName: a, LayerType: kgen, Inputs: [], Metadata: ", "no inputs and outputs in 'Name: a"),
        (
            f"Layers:\nName: a, LayerType: kgen, Inputs: [ {TENSOR.replace('Float', 'Posit8')}], Outputs: []",
            "datatype 'Posit8' is unknown",
        ),
        (TENSORRT_10.replace("Row major linear FP32", "Row major linear"), "no datatype in 'Row major linear'"),
    ],
)
def test_another_form_is_called_unreadable_and_never_guessed(message: str, said: str) -> None:
    with pytest.raises(UnreadableLayers, match=said):
        realized_layers(message, {})


def test_of_a_products_kernels_the_generated_one_counts_only_without_a_library_one() -> None:
    generated = f"Name: k, LayerType: kgen, Inputs: [ {TENSOR}], Outputs: [], TacticName: , Metadata: [ONNX Layer: a]"
    library = generated.replace("kgen", "gemm")
    assert [layer.kind for layer in realized_layers(f"Layers:\n{generated}", {"a": "matmul"})] == ["matmul"]
    both = realized_layers(f"Layers:\n{generated}\n{library}", {"a": "matmul"})
    assert [layer.kind for layer in both] == ["other", "matmul"]


def test_only_the_failed_look_for_a_driver_is_noise_among_the_errors() -> None:
    looked = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at a.cpp:250 "
    looked += "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
    failed = "IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (In generateForCurrent at b.cpp:221 "
    failed += "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
    other = looked.replace("cudaError 35", "cudaError 2")
    assert Recorder([("error", looked), ("error", failed), ("error", other)]).errors() == [failed, other]


def test_places_in_c_plus_plus_sources_are_left_out_of_messages() -> None:
    said = "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] FP32 GEMM is not supported."
    assert readable(f"{said} In compileGraph at /_src/optimizer/codeGenerator.cpp:2012)") == (
        "Error Code 1: Myelin (FP32 GEMM is not supported)"
    )


def test_native_lines_are_captured_pythons_go_on_and_the_descriptor_comes_back() -> None:
    code = """
import os, sys
from engines.tensorrt.log import captured_stderr
try:
    with captured_stderr() as lines:
        os.write(2, b"native\\n")
        print("a progress bar", file=sys.stderr)
        raise ValueError
except ValueError:
    pass
os.write(2, b"after\\n")
print(lines)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("['native']\n", "a progress bar\nafter\n")


def test_a_capture_leaves_no_descriptor_open() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        with captured_stderr():
            pass
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_importing_the_package_imports_no_runtime() -> None:
    code = "import sys, engines.tensorrt; print({'tensorrt', 'tensorrt_rtx', 'onnx', 'torch'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_without_tensorrt_rtx_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    target = Target("edge", "tensorrt-rtx")
    said = TensorRTRTX().why_not_build(target)
    assert said is not None
    assert said.startswith("tensorrt_rtx cannot be imported here (")
    assert said.endswith("): pip install 'edgestill[rtx]' (x86-64 Linux only)")
    with pytest.raises(RuntimeMissing, match=r"pip install 'edgestill\[rtx\]'"):
        TensorRTRTX().build(tmp_path / "m.onnx", "fp32", target, tmp_path / "e.plan")


def test_a_stub_of_tensorrt_is_a_missing_runtime_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise RuntimeError('libraries not found\\nlong story')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    said = TensorRT().why_not_build(Target("jetson", "tensorrt"))
    assert said is not None
    assert said.startswith("tensorrt cannot be imported here (libraries not found): a Jetson has it")


def with_tensorrt(folder: Path, monkeypatch: pytest.MonkeyPatch, gpu: str | None) -> None:
    """A `tensorrt` that imports, and a GPU of this compute capability: neither can be had where this runs."""
    (folder / "tensorrt.py").write_text("__version__ = '10.3.0'")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(cuda, "why_no_gpu", lambda: None if gpu else "there is no NVIDIA driver here")
    monkeypatch.setattr(cuda, "compute_capability", lambda: gpu)


def test_tensorrt_without_a_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tensorrt(tmp_path, monkeypatch, None)
    said = "there is no NVIDIA driver here"
    assert TensorRT().why_not_build(Target("jetson", "tensorrt")) == said
    assert TensorRT().why_not_run(Target("jetson", "tensorrt")) == said


def test_tensorrt_builds_and_runs_for_the_gpu_at_hand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tensorrt(tmp_path, monkeypatch, "8.7")
    for capabilities in ((), ("8.7",)):
        target = Target("orin", "tensorrt", compute_capabilities=capabilities)
        assert (TensorRT().why_not_build(target), TensorRT().why_not_run(target)) == (None, None)
    other = Target("t4", "tensorrt", compute_capabilities=("7.5",))
    assert TensorRT().why_not_build(other) == (
        "TensorRT builds for the GPU at hand alone (8.7), not for 7.5; build it on such a machine, or use tensorrt-rtx"
    )
    assert TensorRT().why_not_run(other) == "its engines are built for 7.5, and the GPU here is 8.7"


def test_versions_are_empty_where_nothing_is_installed() -> None:
    assert RuntimeModule("no_such_distribution", str).version() is None
    assert TensorRT().versions() == {} or "tensorrt" in TensorRT().versions()
