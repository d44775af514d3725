"""`edgestill quantize` for TensorRTs that take ranges beside a float graph: tables and caches."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from own_graph import NETWORK, network, samples, saved

from calibration.ranges import Ranges
from calibration.scale import scale_from_amax
from calibration.tensorrt_cache.cache import CalibrationCache
from calibration.tensorrt_cache.origin import loaded_origin
from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.errors import NotAcceptable, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def quantized(model: Path, family: str, *versions: str) -> Outcome:
    data = saved(model.with_name("x.npz"), x=samples())
    request = QuantizeRequest(model, data, (family,), "entropy", None, model.parent / "out", 8, 1, versions)
    return quantize(request, QuietProgress(), Cancellation())


def test_a_cache_is_written_for_each_version_with_its_origin(model: Path) -> None:
    onnx.save(network(NETWORK.replace(": 18]", ": 17]")), model)
    quantized(model, "tensorrt", "10.3.0", "8.6.1-MinMaxCalibration")
    out = model.parent / "out"
    first = CalibrationCache.load(out / "own.tensorrt-10.3.0.cache")
    second = CalibrationCache.load(out / "own.tensorrt-8.6.1-MinMaxCalibration.cache")
    assert (out / "own.tensorrt-8.6.1-MinMaxCalibration.cache").read_text().startswith("TRT-8601-MinMaxCalibration\n")
    assert first.scales == second.scales
    origin = loaded_origin(out / "own.tensorrt-10.3.0.cache")
    assert origin is not None
    assert (origin.method, origin.images) == ("entropy", 20)
    assert origin.sha256 == sha256(out / "own.tensorrt-10.3.0.cache")
    assert (origin.graph.name, origin.graph.sha256) == ("own.fp32.onnx", sha256(out / "own.fp32.onnx"))
    assert (origin.source.name, origin.source.sha256) == ("own.onnx", sha256(model))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_table_of_ranges_covers_the_graph_that_lies_beside_it(model: Path) -> None:
    quantized(model, "tensorrt")
    out = model.parent / "out"
    table = json.loads((out / "own.ranges-tensorrt.json").read_text())
    graph = onnx.load(out / "own.fp32.onnx").graph
    assert table["graph"] == {"name": "own.fp32.onnx", "sha256": sha256(out / "own.fp32.onnx")}
    assert list(table["tensors"]) == ["x", *(name for node in graph.node for name in node.output)]
    ranges = Ranges.load(out / "own.ranges.json")
    for name, entry in table["tensors"].items():
        scale = scale_from_amax(ranges.of(entry.get("like", name)).amax)
        assert np.float32(entry["amax"] / 127).tobytes() == scale.tobytes()
    assert not list(out.glob("*.cache"))


@pytest.mark.parametrize("family", ["cpu", "tensorrt-rtx"])
def test_what_takes_no_ranges_gets_none_unless_a_version_is_named(model: Path, family: str) -> None:
    quantized(model, family)
    out = model.parent / "out"
    assert not (out / "own.fp32.onnx").exists()
    quantized(model, family, "10.3.0")
    assert (out / "own.fp32.onnx").exists()
    assert (out / "own.tensorrt-10.3.0.cache").exists()


def test_two_calibrations_write_the_same_bytes(model: Path) -> None:
    files: list[dict[str, bytes]] = []
    for _ in range(2):
        quantized(model, "tensorrt", "10.3.0")
        files.append({file.name: file.read_bytes() for file in (model.parent / "out").iterdir()})
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        (("11.0.0",), "TensorRT 11 takes no calibration cache"),
        (
            ("10.3.0", "8.6.1"),
            r"own\.onnx: TensorRT 8\.6\.1 reads opsets up to 17, and .* has opset 18: export the network",
        ),
        (("10.3.0", "10.3.0.30"), "'10.3.0.30' stands twice; write it once"),
    ],
)
def test_a_version_that_cannot_be_written_is_refused_before_anything_runs(
    model: Path, versions: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        quantized(model, "tensorrt", *versions)
    assert not (model.parent / "out").exists()


def test_a_tensor_whose_name_no_cache_can_hold_is_named(model: Path) -> None:
    graph = onnx.load(model)
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = "two\nlines" if name == "r1" else name
    onnx.save(graph, model)
    with pytest.raises(NotAcceptable, match=r"own.onnx: tensor 'two\\nlines' cannot stand in a calibration cache"):
        quantized(model, "cpu", "10.3.0")
