"""onnxruntime engines: built, audited, opened and run for real on small graphs written as text."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from engines import audit
from engines.base import BuiltEngine, Session, Target, TensorInfo
from engines.errors import BuildCancelled, BuildFailed, EngineDamaged, EngineError, RuntimeMissing
from engines.feeds import random_feeds
from engines.files import sha256_of_file
from engines.latency import summarize
from engines.onnxruntime import OnnxRuntime
from engines.onnxruntime_session import OnnxRuntimeSession
from engines.timing import TimingSettings, measure_latency

ENGINE = OnnxRuntime()
CPU = Target("cpu", "onnxruntime", ("fp32", "int8"))

FLOAT = """<ir_version: 9, opset_import: ["": 18]>
net (float[batch, 1, 4, 4] image) => (float[batch, 2] logits)
<float[2, 1, 3, 3] w = {0.1, 0.2, -0.1, 0.4, 0.5, -0.6, 0.7, 0.8, -0.9, 1.0, -1.1, 1.2, 0.3, 0.4, -0.5, 0.6, 0.7, -0.8},
 float[2] b = {0.1, -0.2}, float[2, 2] p = {0.5, -0.25, 1.0, 0.75}, float[1] unused = {1.0}>
{
  [conv] c = Conv <pads = [1, 1, 1, 1]> (image, w, b)
  [relu] r = Relu (c)
  [mean] m = GlobalAveragePool (r)
  [flat] f = Flatten (m)
  [head] logits = MatMul (f, p)
}"""

# Every operand behind a Q/DQ pair; the activation after Relu has the least zero-point. Weights stay within 64: a CPU
# without VNNI adds two products in 16 bits, and larger ones would saturate.
QUANTIZED = """<ir_version: 9, opset_import: ["": 19]>
net (float[batch, 1, 4, 4] image) => (float[batch, 2] logits)
<int8[2, 1, 3, 3] w = {7, 13, -7, 26, 32, -38, 45, 51, -57, 64, -64, 64, 19, 26, -32, 38, 45, -51},
 float[2] ws = {0.016, 0.016}, int8[2] wz = {0, 0}, float[2] b = {0.1, -0.2},
 int8[2, 2] p = {32, -16, 64, 48}, float ps = {0.016}, int8 pz = {0},
 float s = {0.03}, uint8 z128 = {128}, uint8 z0 = {0}>
{
  [image_q] q = QuantizeLinear (image, s, z128)
  [image_dq] d = DequantizeLinear (q, s, z128)
  [w_dq] wd = DequantizeLinear <axis = 0> (w, ws, wz)
  [conv] c = Conv <pads = [1, 1, 1, 1]> (d, wd, b)
  [relu] r = Relu (c)
  [relu_q] rq = QuantizeLinear (r, s, z0)
  [relu_dq] rd = DequantizeLinear (rq, s, z0)
  [mean] m = GlobalAveragePool (rd)
  [flat] f = Flatten (m)
  [flat_q] fq = QuantizeLinear (f, s, z0)
  [flat_dq] fd = DequantizeLinear (fq, s, z0)
  [p_dq] pd = DequantizeLinear (p, ps, pz)
  [head] logits = MatMul (fd, pd)
}"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "model.onnx") -> Path:
        model = parser.parse_model(text)
        onnx.checker.check_model(model)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


def built(graph: Path, precision: str = "fp32", target: Target = CPU) -> BuiltEngine:
    return ENGINE.build(graph, precision, target, graph.with_suffix(f".{precision}.engine.onnx"))


def opened(engine: BuiltEngine, target: Target = CPU) -> Session:
    return ENGINE.open(engine.file, engine.sha256, target)


def images(batch_size: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    return {"image": np.random.default_rng(seed).standard_normal((batch_size, 1, 4, 4)).astype(np.float32)}


# Building


@pytest.mark.parametrize(("text", "precision"), [(FLOAT, "fp32"), (QUANTIZED, "int8")])
def test_an_engine_computes_what_its_graph_says(write: Callable[..., Path], text: str, precision: str) -> None:
    graph = write(text)
    expected = np.asarray(ReferenceEvaluator(onnx.load(graph)).run(None, images(5)), np.float32)[0]
    with opened(built(graph, precision)) as session:
        found = session.run(images(5))
    np.testing.assert_allclose(np.asarray(found["logits"], np.float32), expected, atol=1e-5)


def test_what_was_built_is_recorded_as_it_lies_on_disk(write: Callable[..., Path]) -> None:
    engine = built(write(FLOAT))
    data = engine.file.read_bytes()
    assert (engine.bytes, engine.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert engine.versions == ENGINE.versions() == {"onnxruntime": __import__("onnxruntime").__version__}
    assert engine.settings["file_optimization"] == "extended"
    assert engine.settings["session_optimization"] == "all"
    assert sorted(path.name for path in engine.file.parent.iterdir()) == ["model.fp32.engine.onnx", "model.onnx"]


def test_two_processes_in_two_folders_build_the_same_bytes(write: Callable[..., Path], tmp_path: Path) -> None:
    graph, script = write(QUANTIZED), "import sys; from pathlib import Path; from engines.base import Target\n"
    script += "from engines.onnxruntime import OnnxRuntime; graph, to = map(Path, sys.argv[1:])\n"
    script += "OnnxRuntime().build(graph, 'int8', Target('cpu', 'onnxruntime'), to)"
    files = [tmp_path / folder / "engine.onnx" for folder in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        subprocess.run([sys.executable, "-c", script, graph, file], check=True, cwd=Path(audit.__file__).parents[1])
    assert sha256_of_file(files[0]) == sha256_of_file(files[1]) == built(graph, "int8").sha256


def test_building_and_opening_leaves_stderr_to_the_user(
    write: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with opened(built(write(FLOAT))) as session, pytest.raises(EngineError):
        session.run({"image": np.zeros((1, 1, 4, 5), np.float32)})
    with pytest.raises(BuildFailed):
        built(write(FLOAT.replace("GlobalAveragePool (r)", "Reshape (r, b)")))
    assert capfd.readouterr() == ("", "")


def test_onnxruntime_is_told_to_report_nothing(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    built(write(FLOAT))
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_weights_in_another_file_become_part_of_the_engine(write: Callable[..., Path], tmp_path: Path) -> None:
    model, graph = onnx.load(write(FLOAT)), tmp_path / "external.onnx"
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))  # as raw bytes
    onnx.save(model, graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    engine = built(graph)
    (tmp_path / "weights.bin").unlink()
    with opened(engine) as session:
        assert session.run(images(1))["logits"].shape == (1, 2)


def test_weights_that_no_one_file_holds_are_refused(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = write(FLOAT)
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))  # as raw bytes
    onnx.save(model, graph)
    monkeypatch.setattr("engines.onnxruntime.LARGEST_GRAPH_BYTES", 8)
    with pytest.raises(BuildFailed, match=r"its weights take 2 GB or more, and an engine of onnxruntime is one file"):
        built(graph)


def test_progress_is_told_and_a_cancelled_build_leaves_nothing(write: Callable[..., Path], tmp_path: Path) -> None:
    graph, to, told = write(FLOAT), tmp_path / "engine.onnx", list[tuple[str, int, int]]()

    def until(last: str) -> Callable[[str, int, int], bool]:
        def on_step(phase: str, done: int, total: int) -> bool:
            told.append((phase, done, total))
            return phase != last

        return on_step

    for phase in ("optimize", "audit", "save"):
        with pytest.raises(BuildCancelled, match=rf"model\.onnx: building it was cancelled .*\({phase}\)"):
            ENGINE.build(graph, "fp32", CPU, to, until(phase))
        assert list(tmp_path.iterdir()) == [graph]
    assert told[-3:] == [("optimize", 0, 3), ("audit", 1, 3), ("save", 2, 3)]
    assert ENGINE.build(graph, "fp32", CPU, to, until("never")).file == to


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda graph: graph.write_bytes(b"garbage" * 9), r"model\.onnx: is no readable ONNX file .*export it again"),
        (lambda graph: graph.unlink(), r"model\.onnx: is no readable ONNX file .*No such file"),
        (lambda graph: graph.write_bytes(b""), r"model\.onnx: onnxruntime .* refuses it: .*No graph was found"),
    ],
)
def test_a_graph_that_cannot_be_read_is_refused_and_an_older_engine_removed(
    write: Callable[..., Path], damage: Callable[[Path], None], message: str
) -> None:
    graph = write(FLOAT)
    engine = built(graph)
    damage(graph)
    with pytest.raises(BuildFailed, match=message):
        built(graph)
    assert not engine.file.exists()
    assert set(graph.parent.iterdir()) <= {graph}


def test_a_folder_that_cannot_be_written_to_is_no_refusal_of_the_graph(write: Callable[..., Path]) -> None:
    graph = write(FLOAT)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ENGINE.build(graph, "fp32", CPU, graph.parent / "nowhere" / "engine.onnx")


def test_an_operator_that_onnxruntime_lacks_is_named(write: Callable[..., Path]) -> None:
    text = FLOAT.replace('["": 18]', '["": 18, "mine": 1]').replace("Relu (c)", "mine.Swoosh (c)")
    with pytest.raises(BuildFailed, match=r"onnxruntime .* refuses it: .*mine:Swoosh"):
        built(write(text))


def test_fp16_is_refused_with_its_reason(write: Callable[..., Path]) -> None:
    reason = "onnxruntime on a CPU computes FP16 in FP32 between casts, .* take 'fp16' out"
    target = Target("edge", "onnxruntime", ("fp32", "fp16"))
    with pytest.raises(BuildFailed, match=reason):
        built(write(FLOAT), "fp16", target)
    assert "take 'fp16' out of its precisions" in str(ENGINE.why_not_build(target))
    graph = write(FLOAT)
    older = ENGINE.build(graph, "fp32", CPU, graph.with_suffix(".int4.engine.onnx")).file
    with pytest.raises(BuildFailed, match="precision 'int4' is unknown; choose from fp32, int8"):
        built(graph, "int4")
    assert not older.exists()


def test_without_onnxruntime_every_way_in_says_how_to_get_it(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = write(FLOAT)
    engine = built(graph)
    assert (ENGINE.why_not_build(CPU), ENGINE.why_not_run(CPU)) == (None, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert ENGINE.why_not_run(CPU) == "onnxruntime is not installed: pip install onnxruntime"
    assert ENGINE.versions() == {}
    with pytest.raises(RuntimeMissing, match="pip install onnxruntime"):
        built(graph)
    with pytest.raises(RuntimeMissing, match="pip install onnxruntime"):
        opened(engine)


# What was really built


def test_a_float_graph_has_a_fused_convolution_and_no_int8(write: Callable[..., Path]) -> None:
    layers = built(write(FLOAT)).layers
    assert [(layer.operator, layer.kind) for layer in layers[:1]] == [("FusedConv", "convolution")]
    assert layers[0].onnx_nodes == ("relu", "conv")
    assert layers[0].products == ("conv",)
    assert layers[0].outputs[0].dims == (-1, 2, 4, 4)
    assert audit.summarize(layers).float_products == ("conv", "head")


def test_a_quantized_graph_takes_int8_operands_and_names_the_nodes_it_came_from(write: Callable[..., Path]) -> None:
    layers = {layer.operator: layer for layer in built(write(QUANTIZED), "int8").layers}
    convolution, product = layers["QLinearConv"], layers["MatMulIntegerToFloat"]
    assert [(each.name, each.dtype, each.constant) for each in convolution.inputs[:2]] == [
        ("q", "uint8", False),
        ("w", "int8", True),
    ]
    assert [each.dtype for each in convolution.inputs[2:]] == ["int32"]  # the bias, and no scale
    assert convolution.outputs[0].dtype == "uint8"
    assert convolution.outputs[0].dims == (-1, 2, 4, 4)
    assert set(convolution.onnx_nodes) == {"relu_q", "relu", "conv", "image_dq", "w_dq"}
    assert [each.dtype for each in product.inputs] == ["uint8", "int8"]
    assert product.products == ("head",)
    found = audit.summarize(layers.values())
    assert (found.int8, found.products, found.float_products) == (2, 2, ())


def test_an_int8_weight_alone_is_no_int8_convolution(write: Callable[..., Path]) -> None:
    layers = built(write(QUANTIZED.replace("(d, wd, b)", "(image, wd, b)")), "int8").layers
    convolution = next(layer for layer in layers if layer.kind == "convolution")
    assert convolution.inputs[0].dtype == "float32"
    assert audit.product_dtype(convolution) == "float32"


def test_a_product_that_quantizes_its_own_operand_is_int8(write: Callable[..., Path]) -> None:
    graph = write("""<ir_version: 9, opset_import: ["": 18]>
net (float[batch, 4] x) => (float[batch, 2] y)
<int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[1] ws = {0.5}>
{
  q, s, z = DynamicQuantizeLinear (x)
  i = MatMulInteger (q, w, z)
  c = Cast <to = 1> (i)
  m = Mul (s, ws)
  [scaled] y = Mul (c, m)
}""")
    (layer,) = built(graph, "int8").layers
    assert layer.operator == "DynamicQuantizeMatMul"
    assert layer.inputs[0].format == "quantized from float32"
    assert audit.product_dtype(layer) == "int8"


def test_a_product_inside_a_branch_is_listed_with_what_is_known_of_it(write: Callable[..., Path]) -> None:
    layers = built(
        write("""<ir_version: 9, opset_import: ["": 18]>
net (float[batch, 2] x, bool c) => (float[batch, 2] y)
<float[2, 2] w = {1, 2, 3, 4}>
{
  y = If (c) <then_branch = t () => (float[batch, 2] a) { [inner] a = MatMul (x, w) },
              else_branch = e () => (float[batch, 2] b) { b = Relu (x) }>
}""")
    ).layers
    inner = next(layer for layer in layers if layer.kind == "matmul")
    assert (inner.name, [each.dtype for each in inner.inputs]) == ("inner", ["float32", "float32"])
    assert inner.outputs[0].dtype == "unknown"


# Opening and running


def test_a_damaged_engine_is_not_loaded(write: Callable[..., Path]) -> None:
    engine = built(write(FLOAT))
    engine.file.write_bytes(engine.file.read_bytes()[:-1] + b"x")
    with pytest.raises(EngineDamaged, match=r"SHA-256 is .*…, recorded was .*…; it was not loaded. Build it again"):
        opened(engine)
    engine.file.unlink()
    with pytest.raises(EngineDamaged, match="cannot be read"):
        opened(engine)


def test_a_file_of_the_right_digest_that_is_no_engine_says_so(tmp_path: Path) -> None:
    file = tmp_path / "engine.onnx"
    file.write_bytes(b"garbage" * 9)
    with pytest.raises(
        EngineError, match=r"engine\.onnx: onnxruntime .* does not load it .*; build it with this version"
    ):
        ENGINE.open(file, sha256_of_file(file), CPU)


def test_a_session_tells_its_tensors_with_minus_one_for_a_dynamic_dimension(write: Callable[..., Path]) -> None:
    with opened(built(write(FLOAT))) as session:
        assert session.inputs == (TensorInfo("image", "float32", (-1, 1, 4, 4)),)
        assert session.outputs == (TensorInfo("logits", "float32", (-1, 2)),)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'image' is missing; the engine takes image, it was given nothing"),
        ({"picture": 0}, "input 'image' is missing; the engine takes image, it was given picture"),
        ({"image": np.zeros((1, 1, 4, 4))}, r"input 'image' is float64; expected float32 \[any, 1, 4, 4\]"),
        ({"image": np.zeros((1, 4, 4), "f")}, r"has shape \[1, 4, 4\]; expected float32 \[any, 1, 4, 4\]"),
        ({"image": np.zeros((1, 1, 4, 5), "f")}, r"has shape \[1, 1, 4, 5\]; expected float32 \[any, 1, 4, 4\]"),
        (
            {"image": np.zeros((1, 1, 4, 4), "f"), "more": np.zeros(1)},
            "input 'more' is unknown; the engine takes image",
        ),
    ],
)
def test_wrong_feeds_are_told_what_was_expected(
    write: Callable[..., Path], feeds: dict[str, NDArray[np.generic]], message: str
) -> None:
    with opened(built(write(FLOAT))) as session, pytest.raises(EngineError, match=message):
        session.run(feeds)


def test_outputs_belong_to_the_caller(write: Callable[..., Path]) -> None:
    with opened(built(write(FLOAT))) as session:
        first = session.run(images(2, seed=0))["logits"]
        kept = first.copy()
        session.run(images(2, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_a_session_runs_on_the_threads_of_its_target(write: Callable[..., Path]) -> None:
    engine = built(write(FLOAT))
    with opened(engine, replace(CPU, threads=2)) as session:
        assert isinstance(session, OnnxRuntimeSession)
        options = session._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_a_closed_session_does_not_run(write: Callable[..., Path]) -> None:
    with opened(built(write(FLOAT))) as session:
        pass
    with pytest.raises(EngineError, match="its session is closed; open the engine again"):
        session.run(images(1))


def test_random_feeds_fit_a_session_and_repeat_for_a_seed(write: Callable[..., Path]) -> None:
    with opened(built(write(FLOAT))) as session:
        feeds = random_feeds(session.inputs, batch_size=3, seed=4)
        assert session.run(feeds)["logits"].shape == (3, 2)
        np.testing.assert_array_equal(feeds["image"], random_feeds(session.inputs, 3, seed=4)["image"])


def test_random_feeds_are_not_guessed_for_an_input_without_a_known_size() -> None:
    for shape in ((-1, 3, -1, -1), (4, 3), ()):
        with pytest.raises(EngineError, match="no tensor of batch size 2 follows from it; give real inputs"):
            random_feeds([TensorInfo("x", "float32", shape)], batch_size=2, seed=0)


def test_two_real_engines_are_timed_side_by_side(write: Callable[..., Path]) -> None:
    engines = {"fp32": built(write(FLOAT, "f.onnx")), "int8": built(write(QUANTIZED, "q.onnx"), "int8")}
    sessions = {name: opened(engine) for name, engine in engines.items()}
    settings = TimingSettings(seconds=0.02, max_seconds=5, warmup_seconds=0.01)
    found = measure_latency(sessions, {2: [images(2, seed) for seed in range(3)]}, settings)
    assert set(found) == {("fp32", 2), ("int8", 2)}
    assert all(0 < summarize(samples).min_ms <= summarize(samples).p50_ms for samples in found.values())


def test_importing_the_engines_imports_no_runtime() -> None:
    script = "import sys, engines, engines.timing, engines.latency, engines.machine, engines.peak_memory\n"
    script += "heavy = {'onnx', 'onnxruntime', 'torch', 'tensorrt', 'tensorrt_rtx', 'pycuda'}\n"
    script += "print(sorted(heavy & set(sys.modules)), list(engines.ENGINES))"
    told = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=Path(audit.__file__).parents[1]
    )
    assert told.stdout.strip() == "[] ['onnxruntime', 'tensorrt', 'tensorrt-rtx']"
