"""`edgestill quantize`, for people who come with an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from own_graph import network, quantized, samples, saved, shown
from PIL import Image

from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.errors import DataRejected, NotAcceptable, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.sensitivity.budget import Budget


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


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
    with pytest.raises(RecipeError, match="images need --mean and --std, or --preprocess"):
        quantized(model, folder)
    preprocess.write_text('{"scal": 0.0039}')
    with pytest.raises(RecipeError, match=r"preprocess.json: 'scal' is no key; did you mean 'scale'\?"):
        quantized(model, folder, preprocess=preprocess)
    preprocess.write_text('{"scale": 0.0039}')
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(folder / "large.png")
    with pytest.raises(DataRejected, match="images have different sizes; give --preprocess with resize, crop"):
        quantized(model, folder, preprocess=preprocess)


def test_one_of_a_thing_is_said_in_the_singular(model: Path) -> None:
    data = saved(model.with_name("x.npz"), x=samples())
    request = QuantizeRequest(
        model, data, ("tensorrt",), "minmax", None, None, 8, 1, repair=(), images="1", budget=Budget(min_sqnr_db=5)
    )
    said = shown(quantize(request, QuietProgress(), Cancellation()), 200)
    assert "ranges of 1 image are shaky" in said
    assert "budget met (1 placement tried, 0 of 2 layers spared)" in said


def test_ranges_of_few_images_are_called_shaky_and_those_of_many_are_not(model: Path) -> None:
    few, many = samples()[:8], np.concatenate([samples()] * 4)
    said = shown(quantized(model, saved(model.with_name("x.npz"), x=few), "cpu"))
    assert "ranges of 8 images are shaky: a few hundred are usual" in said
    notes = quantized(model, saved(model.with_name("x.npz"), x=many), "cpu").document["notes"]
    assert not [note for note in notes if "shaky" in note]
