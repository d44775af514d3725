"""Inputs of shape (), which are the same for all samples: a gain, the condition of an If."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from small_training import invoke

from pipeline.exporting.parity import ReferenceSession

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
net (float[%s, 1, 8, 8] x, float gain, bool flip) => (float[%s, 3] y) {
    t = Mul (x, gain)
    c = Conv <pads = [1, 1, 1, 1]> (t, w, b)
    r = Relu (c)
    s = If (flip) <
        then_branch = then () => (float then_s) { then_s = Constant <value = float {-1.0}> () },
        else_branch = other () => (float other_s) { other_s = Constant <value = float {1.0}> () }
    >
    d = Conv <pads = [1, 1, 1, 1]> (r, w2, b)
    z = Mul (d, s)
    p = GlobalAveragePool (z)
    f = Flatten (p)
    y = Gemm (f, m, n)
}
"""
SHAPES = {"w": (8, 1, 3, 3), "b": (8,), "w2": (8, 8, 3, 3), "m": (8, 3), "n": (3,)}


def written(path: Path, batch: str = "N") -> Path:
    random, model = np.random.default_rng(0), parser.parse_model(GRAPH % (batch, batch))
    for name, shape in SHAPES.items():
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


def arrays(gain: float = 0.5) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(1)
    images = random.normal(size=(20, 1, 8, 8)).astype(np.float32)
    return {"x": images, "gain": np.array(gain, np.float32), "flip": np.array(True), "labels": np.arange(20) % 3}


def saved(path: Path, **values: NDArray[np.generic]) -> Path:
    (np.savez_compressed if "compressed" in path.name else np.savez)(path, **values)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("batch", "name", "options"),
    [
        ("N", "plain.npz", ("--repair", "auto", "--max-drop", "60", "--channel-extremes", "--batch-size", "3")),
        ("5", "compressed.npz", ("--images", "auto", "--min-sqnr", "5", "--method", "mse")),
    ],
)
def test_they_are_fed_wherever_samples_are_read(
    batch: str, name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    model, data = written(tmp_path / "net.onnx", batch), saved(tmp_path / name, **arrays())
    done = invoke("quantize", model, "--data", data, "--family", "tensorrt", "--json", "-q", *options)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["images"] == 20
    assert {trial["repair"] for trial in document["placement"]["repairs"]} >= {"rounding", "bias"}
    ranges = document["ranges"]["tensors"]
    assert (ranges["gain"]["low"], ranges["gain"]["high"]) == (0.5, 0.5)
    assert ranges["t"]["high"] == pytest.approx(ranges["x"]["high"] / 2, rel=1e-3)
    feeds = {name: values[:5] if values.ndim else values for name, values in arrays().items() if name != "labels"}
    wanted, found = (
        ReferenceSession(graph, 1).run(feeds)["y"] for graph in (model, tmp_path / "net.tensorrt.int8.onnx")
    )
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()


def test_sensitivity_feeds_them_too(tmp_path: Path) -> None:
    model, data = written(tmp_path / "net.onnx"), saved(tmp_path / "x.npz", **arrays())
    done = invoke("sensitivity", model, "--data", data, "--family", "tensorrt", "-q")
    assert done.exit_code == 0, done.stderr


def calibrated(model: Path, data: Path) -> bytes:
    done = invoke("calibrate", model, "--data", data, "-o", data.with_suffix(".sketches"), "-q")
    assert done.exit_code == 0, done.stderr
    return data.with_suffix(".sketches").read_bytes()


def test_how_they_are_stored_does_not_matter_and_their_value_is_part_of_the_data(tmp_path: Path) -> None:
    model, folder = written(tmp_path / "net.onnx"), tmp_path / "arrays"
    folder.mkdir()
    for name, values in arrays().items():
        np.save(folder / f"{name}.npy", values)
    found = calibrated(model, folder)
    assert calibrated(model, saved(tmp_path / "plain.npz", **arrays())) == found
    assert calibrated(model, saved(tmp_path / "compressed.npz", **arrays())) == found
    assert calibrated(model, saved(tmp_path / "other.npz", **arrays(gain=0.25))) != found


def test_images_that_are_all_the_same_are_found_beside_them(tmp_path: Path) -> None:
    same = arrays() | {"x": np.repeat(np.asarray(arrays()["x"])[:1], 20, axis=0)}
    data = saved(tmp_path / "x.npz", **same)
    done = invoke("calibrate", written(tmp_path / "net.onnx"), "--data", data, "-q")
    assert done.exit_code == 4
    assert "all 20 images are the same in tensor 'x' and every other input" in done.stderr


def test_an_array_of_samples_for_them_is_refused(tmp_path: Path) -> None:
    data = saved(tmp_path / "x.npz", **arrays() | {"gain": np.full(20, 0.5, np.float32)})
    done = invoke("quantize", written(tmp_path / "net.onnx"), "--data", data, "--family", "tensorrt", "-q")
    assert done.exit_code == 4
    said = "array 'gain' has shape (20,); the graph takes one value for all samples, an array of shape ()"
    assert said in done.stderr


def test_a_folder_of_a_file_a_sample_says_where_they_belong(tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    (folder / "x").mkdir(parents=True)
    np.save(folder / "x" / "0.npy", np.asarray(arrays()["x"])[0])
    done = invoke("quantize", written(tmp_path / "net.onnx"), "--data", folder, "--family", "tensorrt", "-q")
    assert done.exit_code == 4
    assert "input 'gain' is one value for all samples; with one give " in done.stderr
    assert "samples along the first axis, or all of them in a .npz" in done.stderr
