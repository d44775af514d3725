"""onnxruntime's providers by name: what is asked for runs, or it is an error that says what to do.

There is no GPU where this runs: a stand-in for onnxruntime has the providers, real sessions run on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import parser

from engines import ENGINES, cuda, onnxruntime
from engines.base import BuiltEngine, Target
from engines.errors import BuildFailed, EngineError, RuntimeMissing
from engines.execution_provider import NAMES, provider_list, require_provider, why_no_provider
from engines.onnxruntime_session import imported, inference_session
from engines.run_options import RunConditions, RunOptions

ENGINE = ENGINES["onnxruntime"]
TEXT = """<ir_version: 9, opset_import: ["": 18]>
g (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}>
{ [product] a = MatMul (x, w)  [late] y = Relu (a) }"""

FUSIBLE = """<ir_version: 9, opset_import: ["": 18]>
g (float[N, 1, 4, 4] x) => (float[N, 1, 4, 4] y) <float[1, 1, 1, 1] w = {2}>
{ i = Identity (x)  c = Conv (i, w)  y = Relu (c) }"""


def target(provider: str = "cpu", *precisions: str, level: str = "all") -> Target:
    running = RunOptions(provider=provider, graph_optimization=level)
    return Target("edge", "onnxruntime", precisions or ("fp16",), running=running)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(parser.parse_model(TEXT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def built(graph: Path, wanted: Target, precision: str = "fp32") -> BuiltEngine:
    return ENGINE.build(graph, precision, wanted, graph.with_name("engine.onnx"))


class Session:
    """Says what ran where, as onnxruntime's does."""

    def __init__(self, providers: list[str], on_cpu: tuple[tuple[str, str], ...] = ()) -> None:
        self._providers, self._on_cpu = providers, on_cpu

    def get_providers(self) -> list[str]:
        return self._providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [SimpleNamespace(name=name, op_type=operator) for name, operator in self._on_cpu]
        return [SimpleNamespace(ep_name=NAMES["cpu"], get_nodes=lambda: nodes)]


# What cannot run


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_installed_is_named_with_what_to_install(graph: Path, provider: str) -> None:
    wanted = target(provider)
    said = f"the onnxruntime here has no {NAMES[provider]} (it has "
    missing = ENGINE.why_not_run(wanted)
    assert missing is not None
    assert missing.startswith(said)
    assert "pip uninstall onnxruntime, then pip install onnxruntime-gpu; on a Jetson take the wheel" in missing
    assert ENGINE.why_not_build(wanted) is None
    engine = built(graph, wanted, "fp16")
    with pytest.raises(RuntimeMissing, match=r"engine\.onnx: the onnxruntime here has no"):
        ENGINE.open(engine.file, engine.sha256, wanted)


def test_a_provider_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    has_all = SimpleNamespace(get_available_providers=lambda: list(NAMES.values()))
    assert why_no_provider(has_all, "cuda") is None
    monkeypatch.setattr(onnxruntime, "imported", lambda: has_all)
    monkeypatch.setattr(cuda, "why_no_gpu", lambda: "there is no NVIDIA driver here")
    assert ENGINE.why_not_run(target("cuda")) == "there is no NVIDIA driver here"
    assert ENGINE.why_not_run(target("cpu", "fp32")) is None


@pytest.mark.parametrize("found", [["CPUExecutionProvider"], ["AzureExecutionProvider", "CPUExecutionProvider"]])
def test_a_session_that_fell_back_to_the_cpu_is_an_error(found: list[str]) -> None:
    with pytest.raises(
        EngineError, match=r"runs on .*CPUExecutionProvider, asked for was CUDAExecutionProvider: its li"
    ):
        require_provider(Session(found), "cuda")


def test_onnxruntime_itself_falls_back_and_is_caught(graph: Path) -> None:
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available provider names"):
        session = inference_session(graph.read_bytes(), "all", 1, providers=provider_list("cuda", "fp32"))
    with pytest.raises(EngineError, match="asked for was CUDAExecutionProvider"):
        require_provider(session, "cuda")


def test_a_product_that_strayed_to_the_cpu_is_named_and_the_arithmetic_of_shapes_is_let_be() -> None:
    on_gpu = [NAMES["cuda"], NAMES["cpu"]]
    require_provider(Session(on_gpu, (("shape", "Shape"), ("at", "Gather"))), "cuda")
    said = r"1 of its products run on the CPU, asked for was CUDAExecutionProvider \(conv1\): it does not take them"
    with pytest.raises(EngineError, match=said):
        require_provider(Session(on_gpu, (("shape", "Shape"), ("conv1", "Conv"))), "cuda")


def test_the_real_onnxruntime_says_which_nodes_run_on_the_cpu(graph: Path) -> None:
    options = imported().SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    real = imported().InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    strayed = SimpleNamespace(
        get_providers=lambda: [NAMES["cuda"]],
        get_provider_graph_assignment_info=real.get_provider_graph_assignment_info,
    )
    with pytest.raises(EngineError, match=r"1 of its products run on the CPU, .* \(product\)"):
        require_provider(strayed, "cuda")


# What is asked of a provider


@pytest.mark.parametrize(
    ("provider", "precision", "said"),
    [
        ("cuda", "int8", "CUDA provider has no INT8 convolution and would compute in float.*provider = 'tensorrt'"),
        ("cuda", "fp8", "CUDA provider multiplies no FP8; take 'fp8' out"),
        ("tensorrt", "fp32", "TensorRT provider has no switch for TF32, so its FP32 is 'tf32'; take 'fp32' out"),
        ("cpu", "fp16", "onnxruntime on a CPU computes FP16 in FP32"),
        ("cuda", "int4", "precision 'int4' is unknown; choose from fp32, tf32, fp16"),
    ],
)
def test_a_precision_that_a_provider_does_not_compute_is_refused(
    graph: Path, provider: str, precision: str, said: str
) -> None:
    with pytest.raises(BuildFailed, match=said):
        built(graph, target(provider), precision)
    assert ENGINE.why_refused(target(provider, precision)) is not None
    assert not graph.with_name("engine.onnx").exists()


def test_tf32_half_and_int8_are_switched_on_only_where_they_are_asked_for() -> None:
    def switches(provider: str, precision: str) -> dict[str, str]:
        return {key: value for _, options in provider_list(provider, precision) for key, value in options.items()}

    assert switches("cuda", "fp32") == switches("cuda", "fp16") == {"use_tf32": "0"}
    assert switches("cuda", "tf32") == {"use_tf32": "1"}
    off = {"trt_fp16_enable": "False", "trt_int8_enable": "False", "use_tf32": "1"}
    assert switches("tensorrt", "tf32") == off
    assert switches("tensorrt", "int8+fp16") == {"trt_fp16_enable": "True", "trt_int8_enable": "True", "use_tf32": "0"}


def test_the_file_of_a_provider_says_its_precision_and_holds_nothing_for_the_cpu_alone(graph: Path) -> None:
    engine = built(graph, target("tensorrt", "int8"), "int8")
    assert (engine.settings["provider"], engine.settings["file_optimization"]) == (NAMES["tensorrt"], "basic")
    assert onnxruntime._precision_of(engine.file.read_bytes(), "tensorrt") == "int8"
    assert ENGINE.family_of(target("tensorrt")) == "tensorrt"
    assert ENGINE.family_of(target("cpu")) == "cpu"


@pytest.mark.parametrize(
    ("level", "in_file", "operators"),
    [
        ("disabled", "disabled", ["Identity", "Conv", "Relu"]),
        ("basic", "basic", ["Conv", "Relu"]),
        ("extended", "extended", ["FusedConv"]),
        ("all", "extended", ["FusedConv"]),
    ],
)
def test_the_level_of_a_target_is_that_of_its_file_and_of_its_session(
    graph: Path, level: str, in_file: str, operators: list[str]
) -> None:
    onnx.save(parser.parse_model(FUSIBLE), graph)
    wanted = target("cpu", "fp32", level=level)
    engine = built(graph, wanted)
    assert engine.settings["file_optimization"] == in_file
    assert engine.settings["session_optimization"] == level
    assert [layer.operator for layer in engine.layers] == operators
    with ENGINE.open(engine.file, engine.sha256, wanted) as session:
        assert session.conditions == RunConditions()
        levels: Any = session
        found = levels._session.get_session_options().graph_optimization_level
    names = {"disabled": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
    assert found == getattr(imported().GraphOptimizationLevel, f"ORT_{names[level]}")
