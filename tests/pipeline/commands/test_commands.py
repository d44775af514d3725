"""quantize, build, new and doctor, for people who come with an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from own_graph import NETWORK, network, quantized, samples, saved, shown
from PIL import Image

from engines.tensorrt.engine import TensorRTRTX
from pipeline.commands.build import BuildRequest, build
from pipeline.commands.doctor import doctor
from pipeline.commands.new import new
from pipeline.commands.outcome import Outcome
from pipeline.errors import DataRejected, EdgestillError, MachineLacks, NotAcceptable, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.recipe import load_recipe


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


def test_quantize_writes_the_graphs_of_every_family(model: Path) -> None:
    outcome = quantized(model, saved(model.with_name("x.npz"), x=samples()), "cpu", "tensorrt-rtx")
    assert outcome.document["images"] == 20
    assert sorted(file.name for file in (model.parent / "out").iterdir()) == [
        "own.cpu.int8.onnx",
        "own.fp16.onnx",
        "own.placement.json",
        "own.ranges.json",
        "own.sketches.npz",
        "own.tensorrt-rtx.fp8.onnx",
        "own.tensorrt-rtx.int8+fp16.onnx",
        "own.tensorrt-rtx.int8.onnx",
    ]
    for file in (model.parent / "out").glob("*.onnx"):
        onnx.checker.check_model(onnx.load(file), full_check=True)
    assert "Gemm_y (Gemm) in float: " in shown(outcome)
    assert "own.cpu.int8.onnx" in shown(outcome)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": samples()}, "x.npz: has no array 'x'; the graph's inputs are x, found image"),
        ({"x": samples()[:, :, :4]}, "x.npz: array 'x' has shape (20, 1, 4, 8); the graph takes (samples, 1, 8, 8)"),
        ({"x": np.float32(1)}, "x.npz: array 'x' has shape (); the graph takes (samples, 1, 8, 8)"),
        ({"x": samples().astype(np.float64)}, "x.npz: array 'x' is float64; the graph takes float32"),
        ({"x": samples(0)}, "x.npz: holds no sample; give at least one"),
        ({"x": np.where(np.arange(20).reshape(20, 1, 1, 1) == 7, np.nan, samples()).astype(np.float32)}, "image '7'"),
        ({"x": np.array([{}])}, "x.npz: is not a readable .npz of plain arrays"),
    ],
)
def test_data_that_does_not_fit_is_rejected(model: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(DataRejected) as caught:
        quantized(model, saved(model.with_name("x.npz"), **arrays))
    assert message in str(caught.value)
    assert not (model.parent / "out").exists()


def test_poison_is_named_with_its_tensor(model: Path) -> None:
    poisoned = samples()
    poisoned[7, 0, 1, 1] = np.nan
    with pytest.raises(DataRejected, match="image '7' makes tensor 'x' hold nan"):
        quantized(model, saved(model.with_name("x.npz"), x=poisoned))


def test_a_graph_that_is_quantized_already_is_refused(model: Path) -> None:
    data = saved(model.with_name("x.npz"), x=samples())
    quantized(model, data)
    with pytest.raises(NotAcceptable, match="the graph is quantized already; give the FP32 one"):
        quantized(model.parent / "out" / "own.cpu.int8.onnx", data)


@pytest.mark.parametrize("content", [b"hello", b""])
def test_what_is_no_onnx_file_is_refused(model: Path, content: bytes) -> None:
    model.write_bytes(content)
    with pytest.raises(NotAcceptable, match=r"own.onnx: is not an ONNX file"):
        quantized(model, saved(model.with_name("x.npz"), x=samples()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "cpi"}, "family 'cpi' is unknown; did you mean 'cpu'? choose from cpu, "),
        ({"method": "entropi"}, "method 'entropi' is unknown; did you mean 'entropy'? choose from best, entropy"),
        ({"data": "absent.npz"}, "absent.npz: there is no such file or folder"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(model: Path, change: dict[str, str], message: str) -> None:
    data = saved(model.with_name("x.npz"), x=samples()).with_name(change.get("data", "x.npz"))
    with pytest.raises(RecipeError) as caught:
        quantized(model, data, change.get("family", "cpu"), method=change.get("method", "minmax"))
    assert message in str(caught.value)


def test_a_folder_of_images_calibrates_with_its_preprocessing(model: Path, tmp_path: Path) -> None:
    folder, preprocess = tmp_path / "images", tmp_path / "preprocess.json"
    folder.mkdir()
    for index in range(5):
        Image.fromarray(np.arange(index, index + 64, dtype=np.uint8).reshape(8, 8)).save(folder / f"{index}.png")
    preprocess.write_text('{"scale": 0.0039, "mean": [0.0], "std": [1.0]}')
    assert quantized(model, folder, preprocess=preprocess).document["images"] == 5
    with pytest.raises(RecipeError, match="images need --preprocess"):
        quantized(model, folder)
    preprocess.write_text('{"scal": 0.0039}')
    with pytest.raises(RecipeError, match=r"preprocess.json: 'scal' is no key; did you mean 'scale'\?"):
        quantized(model, folder, preprocess=preprocess)
    preprocess.write_text('{"scale": 0.0039}')
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(folder / "large.png")
    with pytest.raises(DataRejected, match="images have different sizes; give --preprocess with resize, crop"):
        quantized(model, folder, preprocess=preprocess)


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


@pytest.mark.parametrize("name", ["mine", "a-b.c_1"])
def test_new_writes_a_recipe_that_loads(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.toml"
    outcome = new(path, "digits")
    assert shown(outcome, 200) == f"wrote {path}; change it, then: edgestill run {path}\n"
    assert load_recipe(str(path)).name == name
    assert "# " in path.read_text()


@pytest.mark.parametrize("stem", ["a" * 70, "a b", "-mine"])
def test_new_writes_no_recipe_that_run_refuses(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.toml"
    with pytest.raises(RecipeError, match=r"\.toml: names the recipe too, so take letters, .* alone, at most 64, the"):
        new(path, "digits")
    assert not path.exists()


def test_new_leaves_an_existing_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    with pytest.raises(RecipeError, match=r"mine.toml: exists already; it was left as it is"):
        new(path, "digits")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("width", [80, 120])
def test_doctor_says_what_this_machine_can_do(width: int) -> None:
    outcome = doctor()
    lines = shown(outcome, width).splitlines()
    assert outcome.exit_code == 0
    assert max(map(len, lines)) <= width
    assert any(line.split()[:1] == ["onnxruntime"] and line.split()[2:] == ["yes", "yes"] for line in lines)
    assert all(f"{name}: " in "\n".join(lines) for name in ("torch", "onnx", "tensorrt_rtx", "pycuda"))
    assert "target '" not in "\n".join(lines)


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


def test_ranges_of_few_images_are_called_shaky_and_those_of_many_are_not(model: Path) -> None:
    few, many = samples()[:8], np.concatenate([samples()] * 4)
    said = shown(quantized(model, saved(model.with_name("x.npz"), x=few), "cpu"))
    assert "ranges of 8 images are shaky: a few hundred are usual" in said
    notes = quantized(model, saved(model.with_name("x.npz"), x=many), "cpu").document["notes"]
    assert not [note for note in notes if "shaky" in note]


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
