"""Peak host memory of an engine in a process of its own, for real."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import parser

from engines.base import AxisProfile, Target
from engines.errors import EngineError
from engines.files import sha256_of_file
from engines.onnxruntime import OnnxRuntime
from engines.peak_memory import high_water_mark_bytes, peak_memory_bytes

CPU = Target("cpu", "onnxruntime", ("fp32",), batch=AxisProfile(1, 2, 4))
MIB = 1 << 20


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """Writes batch x 1 MiB of float32."""
    model = parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
net (float[batch, 1] x) => (float[batch, 262144] y) <int64[2] shape = {1, 262144}> { y = Expand (x, shape) }""")
    onnx.save(model, tmp_path / "model.onnx")
    return OnnxRuntime().build(tmp_path / "model.onnx", "fp32", CPU, tmp_path / "engine.onnx").file


def test_a_larger_batch_takes_as_much_more_memory_as_it_has_outputs(
    engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "__init__.py").write_text("raise SystemExit('the working directory was imported')")
    monkeypatch.chdir(tmp_path)  # neither the package nor the relative path of the engine depend on it
    sha256 = sha256_of_file(engine)
    small, large = (
        peak_memory_bytes("onnxruntime", Path(engine.name), sha256, CPU, batch_size) for batch_size in (1, 129)
    )
    assert 20 * MIB < small < 500 * MIB
    assert 120 * MIB < large - small < 300 * MIB


def test_an_engine_of_other_open_axes_is_run_at_the_shapes_that_it_is_given(tmp_path: Path) -> None:
    """Writes batch x length MiB of float32."""
    model = parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
net (float[batch, length, 1] x) => (float[batch, length, 262144] y) <int64[3] shape = {1, 1, 262144}>
{ y = Expand (x, shape) }""")
    onnx.save(model, tmp_path / "model.onnx")
    built = OnnxRuntime().build(tmp_path / "model.onnx", "fp32", CPU, tmp_path / "engine.onnx")
    small, large = (
        peak_memory_bytes("onnxruntime", built.file, built.sha256, CPU, 2, shapes={"x": (length, 1)})
        for length in (1, 65)
    )
    assert 120 * MIB < large - small < 300 * MIB
    with pytest.raises(EngineError, match=r"input 'x' has shape \[any, any, 1\]: no tensor of batch size 2 follows"):
        peak_memory_bytes("onnxruntime", built.file, built.sha256, CPU, 2)


def test_a_damaged_engine_is_an_error_that_says_what_the_process_said(engine: Path) -> None:
    with pytest.raises(
        EngineError, match=r"engine\.onnx: peak host memory at batch size 1: .* ended with 1: .*SHA-256 is"
    ):
        peak_memory_bytes("onnxruntime", engine, "0" * 64, CPU, batch_size=1)


def test_a_process_that_takes_too_long_is_stopped(engine: Path) -> None:
    with pytest.raises(EngineError, match=r"not done after 0\.01 s; take a smaller batch size"):
        peak_memory_bytes("onnxruntime", engine, sha256_of_file(engine), CPU, batch_size=1, timeout_seconds=0.01)


def test_a_kernel_that_does_not_tell_the_peak_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t   1024 kB\n")
    assert high_water_mark_bytes(tmp_path / "status") == MIB
    (tmp_path / "status").write_text("Name:\tpython\n")
    with pytest.raises(EngineError, match="has no VmHWM line"):
        high_water_mark_bytes(tmp_path / "status")
