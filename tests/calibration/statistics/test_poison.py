"""Images that would poison a calibration: blank, all the same, channels in the wrong place, pixels of another scale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx_networks import NetworkBuilder, images, residual
from own_graph import NETWORK, network, quantized, samples, saved
from PIL import Image

from calibration.errors import PoisonedData
from calibration.prepare import prepared
from calibration.statistics.collect import Batch, collect
from pipeline.errors import DataRejected


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph, which takes (samples, 1, 8, 8)."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def named(values: NDArray[np.float32], **more: NDArray[np.float32]) -> list[Batch]:
    return [Batch([f"cat-{number}" for number in range(len(values))], {"image": values, **more})]


@pytest.mark.parametrize("value", [0.0, -2.5])
def test_a_blank_image_is_named(value: float) -> None:
    values = images(6, 1, 8, 8)
    values[4] = value
    with pytest.raises(PoisonedData, match=f"image 'cat-4' is blank: tensor 'image' is {value} throughout; take the"):
        collect(prepared(residual(widths=(8,))), named(values), threads=1)


def test_an_image_whose_last_pixel_differs_is_not_blank() -> None:
    values = images(6, 1, 8, 8)
    values[4] = 0
    values[4, 0, 7, 7] = 1
    assert collect(prepared(residual(widths=(8,))), named(values), threads=1).images == 6


def test_images_that_are_all_the_same_are_refused_and_one_that_differs_is_enough() -> None:
    model, values = prepared(residual(widths=(8,))), np.repeat(images(1, 1, 8, 8), 5, axis=0)
    with pytest.raises(PoisonedData, match="all 5 images are the same in tensor 'image' and every other input; give"):
        collect(model, named(values), threads=2)
    values[3, 0, 0, 0] += 1
    assert collect(model, named(values), threads=2).images == 5


def test_one_image_and_an_input_that_never_changes_beside_one_that_does_are_taken() -> None:
    assert collect(prepared(residual(widths=(8,))), named(images(1, 1, 8, 8)), threads=1).images == 1
    net = NetworkBuilder()
    net.node("Mul", net.linear("image", 4, 4), "mask", output="out")
    model = prepared(net.model({"image": ["batch", 4], "mask": ["batch", 4]}, {"out": ["batch", 4]}))
    assert collect(model, named(images(6, 4), mask=np.ones((6, 4), np.float32)), threads=1).images == 6


def test_channels_in_the_wrong_place_are_told_with_what_moves_them(model: Path) -> None:
    data = saved(model.with_name("x.npz"), x=samples(8).transpose(0, 2, 3, 1))
    with pytest.raises(
        DataRejected,
        match=r"array 'x' has shape \(8, 8, 8, 1\); the graph takes \(samples, 1, 8, 8\): its channels are last "
        r"\(NHWC\), the graph takes them first \(NCHW\); save it \.transpose\(0, 3, 1, 2\)",
    ):
        quantized(model, data)


def test_a_graph_that_takes_channels_last_says_so(tmp_path: Path) -> None:
    text = NETWORK.replace("[N, 1, 8, 8]", "[N, 8, 8, 1]").replace(
        "    c1 = Conv <pads = [1, 1, 1, 1]> (x,",
        "    t = Transpose <perm = [0, 3, 1, 2]> (x)\n    c1 = Conv <pads = [1, 1, 1, 1]> (t,",
    )
    onnx.save(network(text), tmp_path / "own.onnx")
    data = saved(tmp_path / "x.npz", x=samples(8))
    with pytest.raises(DataRejected, match=r"channels are first \(NCHW\), the graph takes them last .*\(0, 2, 3, 1\)"):
        quantized(tmp_path / "own.onnx", data)


def test_where_the_graph_fixes_no_size_the_failed_run_names_the_image_and_hints_at_the_layout(tmp_path: Path) -> None:
    onnx.save(network(NETWORK.replace("[N, 1, 8, 8]", "[N, C, H, W]")), tmp_path / "own.onnx")
    data = saved(tmp_path / "x.npz", x=samples(8).transpose(0, 2, 3, 1))
    with pytest.raises(
        DataRejected, match=r"(?s)does not run on image '0'.*'x' has shape \(1, 8, 8, 1\), channels last"
    ):
        quantized(tmp_path / "own.onnx", data)


def photographs(folder: Path) -> Path:
    """PNG files of 8x8, pixels from 0 to 255."""
    folder.mkdir()
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mean": [0.449], "std": [0.226]},
            r"image '\d\.png' has pixels up to 25\d after scale 1, but mean = \[0\.449\] and std = \[0\.226\] are "
            r"those of pixels from 0 to 1; set scale = 0\.00392157",
        ),
        (
            {"scale": 1 / 255, "mean": [114.5], "std": [57.6]},
            r"image '0\.png' has pixels below 1 after scale 0\.00392157, but mean = \[114\.5\] and std = \[57\.6\] are "
            "those of pixels from 0 to 255; set scale = 1",
        ),
    ],
)
def test_mean_and_deviation_of_pixels_of_another_scale_are_refused(
    model: Path, settings: dict[str, object], message: str
) -> None:
    preprocess = model.with_name("preprocess.json")
    preprocess.write_text(json.dumps(settings))
    with pytest.raises(DataRejected, match=message):
        quantized(model, photographs(model.with_name("photographs")), preprocess=preprocess)


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 1 / 255, "mean": [0.449], "std": [0.226]},
        {"mean": [114.5], "std": [57.6]},
        {"scale": 1 / 255},
        {"scale": 1 / 127.5, "mean": [1.0]},
        {},
    ],
)
def test_usual_normalizations_raise_no_alarm(model: Path, settings: dict[str, object]) -> None:
    preprocess = model.with_name("preprocess.json")
    preprocess.write_text(json.dumps(settings))
    outcome = quantized(model, photographs(model.with_name("photographs")), preprocess=preprocess)
    raw = [note for note in outcome.document["notes"] if "as raw pixels do" in note]
    assert len(raw) == (settings == {})


def test_what_no_image_changes_is_noted(tmp_path: Path) -> None:
    own = network()
    for tensor in own.graph.initializer:
        if tensor.name in ("w3", "w2", "b2"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(own, tmp_path / "own.onnx")
    notes = quantized(tmp_path / "own.onnx", saved(tmp_path / "x.npz", x=samples(8))).document["notes"]
    assert any(
        "(tensor 'r2') is 0 for all images: nothing that reads it depends on the image" in each for each in notes
    )
    assert not any("(tensor 'r1')" in each for each in notes)
