"""`quantize` and `calibrate` of a folder of images with `--mean` and `--std`, in place of `--preprocess`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image
from small_training import invoke

from calibration.statistics import Sketches

LAYERS = """c = Conv <pads = [1, 1, 1, 1]> (%s, w, b)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = Gemm (f, m, n)
}"""
FIRST = '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 3, %s] x) => (float[N, 4] y) {\n' + LAYERS % "x"
LAST = (
    '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 12, 16, 3] x) => (float[N, 4] y) {\n'
    "    t = Transpose <perm = [0, 3, 1, 2]> (x)\n" + LAYERS % "t"
)
SHAPES = {"w": (8, 3, 3, 3), "b": (8,), "m": (8, 4), "n": (4,)}
NORMALIZED = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


def written(path: Path, text: str) -> Path:
    random, model = np.random.default_rng(0), parser.parse_model(text)
    for name, shape in SHAPES.items():
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path / "net.onnx", FIRST % "12, 16")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder, random = tmp_path / "images", np.random.default_rng(1)
    folder.mkdir()
    for index in range(6):
        pixels = random.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def calibrated(model: Path, images: Path, *options: str | Path) -> Sketches:
    out = model.with_suffix(".npz")
    done = invoke("calibrate", model, "--data", images, "-o", out, "-q", *options)
    assert done.exit_code == 0, done.stderr
    return Sketches.load(out)


def test_mean_and_std_do_what_the_same_preprocessing_in_a_file_does(model: Path, images: Path, tmp_path: Path) -> None:
    mean, std = ([float(each) for each in text.split(",")] for text in NORMALIZED[1::2])
    preprocess = tmp_path / "preprocess.json"
    preprocess.write_text(json.dumps({"resize": [12, 16], "scale": 1 / 255, "mean": mean, "std": std}))
    found = calibrated(model, images, *NORMALIZED)
    assert found.origin == calibrated(model, images, "--preprocess", preprocess).origin
    assert -2.2 < found.tensors["x"].minimum < -1
    assert 1.5 < found.tensors["x"].maximum < 2.7


def test_a_graph_with_its_channels_last_is_fed_them_last(model: Path, images: Path, tmp_path: Path) -> None:
    last = calibrated(written(tmp_path / "last.onnx", LAST), images, *NORMALIZED).tensors
    first = calibrated(model, images, *NORMALIZED).tensors
    assert last["r"].maximum == pytest.approx(first["r"].maximum, rel=1e-5)


def test_quantize_takes_one_number_for_all_channels(model: Path, images: Path) -> None:
    done = invoke("quantize", model, "--data", images, "--mean", "0.5", "--std", "0.25,0.3,0.2", "--family", "tensorrt")
    assert done.exit_code == 0, done.stderr
    assert model.with_name("net.tensorrt.int8.onnx").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--mean 0.5", "--mean goes with --std: give both, each one number or one a channel"),
        ("--mean 0.5 --std a", "--std a: write one number, or one a channel such as 0.485,0.456,0.406"),
        ("--mean 0.5 --std 0", "--mean, --std: std[0] must be greater than 0"),
        ("--mean 0.5,0.5 --std 1", "--mean and --std have 2 values, and input 'x' takes 3 channels: give one number"),
        ("--mean 0 --std 255", "are of pixels from 0 to 1, and 255 is of pixels from 0 to 255: divide them by 255, or"),
        ("--mean 0.5 --std 1 --preprocess p.json", "stand in place of --preprocess p.json: give that alone, or these"),
    ],
)
@pytest.mark.parametrize("command", ["quantize", "sensitivity", "calibrate"])
def test_what_is_no_mean_and_std_of_the_graph_is_refused(
    model: Path, images: Path, options: str, said: str, command: str
) -> None:
    family = () if command == "calibrate" else ("--family", "tensorrt")
    done = invoke(command, model, "--data", images, *family, *options.split())
    assert done.exit_code == 2
    assert said in done.stderr


def test_where_the_graph_says_no_size_or_the_data_are_arrays_they_are_refused(
    model: Path, images: Path, tmp_path: Path
) -> None:
    dynamic = written(tmp_path / "dynamic.onnx", FIRST % "H, W")
    done = invoke("quantize", dynamic, "--data", images, "--family", "tensorrt", *NORMALIZED)
    assert done.exit_code == 2
    assert "input 'x' takes (samples, 3, any, any), which says no height and width for --mean and --std" in done.stderr
    assert "give --preprocess with resize in place of them" in done.stderr
    arrays = tmp_path / "x.npz"
    np.savez(arrays, x=np.zeros((2, 3, 12, 16), np.float32))
    done = invoke("quantize", model, "--data", arrays, "--family", "tensorrt", *NORMALIZED)
    assert done.exit_code == 2
    assert "--mean and --std are for a folder of images; " in done.stderr
    assert "x.npz holds what the graph takes already: leave them out" in done.stderr
