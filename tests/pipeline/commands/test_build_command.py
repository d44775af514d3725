"""`edgestill build`, for people who come with an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from own_graph import NETWORK, network, quantized, samples, saved, shown

from engines.tensorrt.engine import TensorRTRTX
from pipeline.commands.build import BuildRequest, build
from pipeline.commands.outcome import Outcome
from pipeline.errors import EdgestillError, MachineLacks, NotAcceptable, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def built(
    model: Path,
    runtime: str,
    precision: str = "fp32",
    *capabilities: str,
    batch: str | None = None,
    axes: tuple[str, ...] = (),
) -> Outcome:
    request = BuildRequest(model, runtime, precision, capabilities, batch, None, axes)
    return build(request, QuietProgress(), Cancellation())


def needs_tensorrt_rtx() -> None:
    if missing := TensorRTRTX.module.why_missing():
        pytest.skip(missing)


def test_build_writes_an_engine_and_its_audit(model: Path) -> None:
    outcome = built(model, "onnxruntime")
    assert model.with_name("own.onnxruntime.onnx").is_file()
    audit = json.loads(model.with_name("own.onnxruntime.onnx.audit.json").read_text())
    assert audit["target"]["runtime"] == "onnxruntime"
    assert {layer["operator"] for layer in audit["layers"]} >= {"Gemm"}
    assert "INT8 operands on 0 of 3 products" in shown(outcome)


def test_an_int8_graph_builds_into_int8_products_for_both_runtimes(model: Path) -> None:
    needs_tensorrt_rtx()
    quantized(model, saved(model.with_name("x.npz"), x=samples()), "cpu", "tensorrt-rtx")
    out = model.parent / "out"
    for runtime, family in (("onnxruntime", "cpu"), ("tensorrt-rtx", "tensorrt-rtx")):
        outcome = built(out / f"own.{family}.int8.onnx", runtime, "int8")
        assert outcome.document["audit"]["int8"] == 2
        assert "in float: " in shown(outcome)
    half = built(out / "own.fp16.onnx", "tensorrt-rtx", "fp16", "8.6", "12.0")
    assert half.document["settings"]["compute_capabilities"] == ["8.6", "12.0"]


def test_a_graph_of_another_open_axis_is_built_for_the_sizes_that_are_given(model: Path) -> None:
    needs_tensorrt_rtx()
    onnx.save(network(NETWORK.replace("1, 8, 8", "1, H, 8")), model)
    with pytest.raises(NotAcceptable, match="axis 'H' is dynamic and target 'tensorrt-rtx' does not say its sizes"):
        built(model, "tensorrt-rtx")
    outcome = built(model, "tensorrt-rtx", axes=("H=4:8:16",))
    assert outcome.document["settings"]["profiles"][0]["H"] == {"min": 4, "opt": 8, "max": 16}


def refused(graph: onnx.ModelProto) -> None:
    """TensorRT and onnxruntime know no such operator."""
    graph.graph.node[1].op_type = "Unknowable"


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt-rtx"])
def test_a_graph_that_the_runtime_refuses_leaves_nothing_behind(model: Path, runtime: str) -> None:
    if runtime == "tensorrt-rtx":
        needs_tensorrt_rtx()
    graph = network()
    refused(graph)
    onnx.save(graph, model)
    with pytest.raises(NotAcceptable, match="Unknowable"):
        built(model, runtime)
    assert [file.name for file in model.parent.iterdir()] == ["own.onnx"]


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (lambda model: built(model, "tensort"), RecipeError, "target 'tensort' is unknown; did you mean 'tensorrt'?"),
        (lambda model: built(model, "onnxruntime", batch="1:2"), RecipeError, "--batch 1:2: give MIN:OPT:MAX, such as"),
        (
            lambda model: built(model, "onnxruntime", batch="1:1:1"),
            RecipeError,
            "batch is for GPUs, onnxruntime runs on",
        ),
        (lambda model: built(model, "onnxruntime", batch="8:2:1"), RecipeError, "min 8, opt 2, max 1 must rise"),
        (
            lambda model: built(model, "onnxruntime", axes=("length=1:2:4",)),
            RecipeError,
            "axes is for GPUs, onnxruntime runs on",
        ),
        (
            lambda model: built(model, "tensorrt-rtx", axes=("length=1:2",)),
            RecipeError,
            "--axis length=1:2: give MIN:OPT:MAX, such as",
        ),
        (
            lambda model: built(model, "tensorrt-rtx", axes=("1:2:4",)),
            RecipeError,
            "--axis 1:2:4: give NAME=MIN:OPT:MAX, such as length=16:64:256",
        ),
        (
            lambda model: built(model, "tensorrt-rtx", axes=("length=1:2:4", "length=1:2:8")),
            RecipeError,
            "--axis length=1:2:8: 'length' stands twice; give it once",
        ),
        (lambda model: built(model, "onnxruntime", "fp61"), RecipeError, "'fp61' is unknown; did you mean 'fp16'?"),
        (lambda model: built(model, "tensorrt-rtx", "fp32", "ampere"), RecipeError, "compute_capabilities"),
        (lambda model: built(model.with_name("absent.onnx"), "onnxruntime"), RecipeError, "there is no such file"),
    ],
)
def test_a_build_that_cannot_be_meant_is_refused(
    model: Path, ask: Callable[[Path], Outcome], kind: type[EdgestillError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        ask(model)
    assert message in str(caught.value)


def test_a_runtime_that_is_not_here_is_named_with_how_to_get_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MachineLacks, match=r"tensorrt cannot be imported here .*pip install 'edgestill\[tensorrt\]'"):
        built(model, "tensorrt")


def test_an_engine_never_replaces_its_model_or_a_folder(model: Path) -> None:
    for out, message in ((model, "would replace the model"), (model.parent, "is a folder")):
        request = BuildRequest(model, "onnxruntime", "fp32", (), None, out)
        with pytest.raises(RecipeError, match=message):
            build(request, QuietProgress(), Cancellation())


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt-rtx"])
def test_an_engine_of_another_precision_than_was_asked_for_is_refused_and_not_left_behind(
    model: Path, runtime: str
) -> None:
    if runtime == "tensorrt-rtx":
        needs_tensorrt_rtx()
    with pytest.raises(NotAcceptable, match=r"int8 was asked for, and none of its 3 .* `edgestill quantize --family"):
        built(model, runtime, "int8")
    assert not list(model.parent.glob(f"own.{runtime}.*"))
    family = "cpu" if runtime == "onnxruntime" else runtime
    quantized(model, saved(model.with_name("x.npz"), x=samples()), family)
    with pytest.raises(NotAcceptable, match="fp32 was asked for, and 2 of its 3 products run in INT8; ask for int8"):
        built(model.parent / "out" / f"own.{family}.int8.onnx", runtime)


def test_int8_beside_fp32_is_not_int8_beside_fp16(model: Path) -> None:
    needs_tensorrt_rtx()
    quantized(model, saved(model.with_name("x.npz"), x=samples()), "tensorrt-rtx")
    with pytest.raises(
        NotAcceptable, match=r"int8\+fp16 was asked for, and 1 of its 3 products run in FP32, none in FP16"
    ):
        built(model.parent / "out" / "own.tensorrt-rtx.int8.onnx", "tensorrt-rtx", "int8+fp16")
    audit = built(model.parent / "out" / "own.tensorrt-rtx.int8+fp16.onnx", "tensorrt-rtx", "int8+fp16").document[
        "audit"
    ]
    assert (audit["int8"], audit["float16"], audit["float32"]) == (2, 1, 0)
