"""`quantize` of graphs with several inputs and outputs and dynamic axes, to a file of one's own name."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types
from small_training import invoke

from calibration import FAMILIES
from pipeline.exporting.parity import ReferenceSession

GRAPH = """<ir_version: 8, opset_import: ["" : %d]> g (float[N,3,H,W] x, float[N,L,16] s)
  => (float[N,32] y, float[N,L,24] t) {
  a = Conv<pads=[1,1,1,1]>(x, w)
  r = Relu(a)
  c = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w2)
  p = GlobalAveragePool(c)
  f = Flatten(p)
  y = MatMul(f, m)
  u = MatMul(s, m2)
  v = Relu(u)
  t = MatMul(v, m3)
}"""
WEIGHTS = {"w": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "m": (16, 32), "m2": (16, 32), "m3": (32, 24)}


def written(folder: Path, opset: int, samples: int = 8) -> tuple[Path, Path]:
    model, random = onnx.parser.parse_model(GRAPH % opset), np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        values = (random.standard_normal(shape) * 0.2).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, folder / "net.onnx")
    images, sequences = random.standard_normal((samples, 3, 17, 23)), random.standard_normal((samples, 9, 16))
    np.savez(folder / "data.npz", x=images.astype(np.float32), s=sequences.astype(np.float32))
    return folder / "net.onnx", folder / "data.npz"


def answers(graph: Path, batch: int, height: int, width: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    feeds = {"x": random.standard_normal((batch, 3, height, width)), "s": random.standard_normal((batch, length, 16))}
    return ReferenceSession(graph, 1).run({name: values.astype(np.float32) for name, values in feeds.items()})


@pytest.mark.parametrize("opset", [13, 17, 22])
def test_a_graph_of_dynamic_axes_is_quantized_and_runs_at_sizes_that_calibration_never_saw(
    opset: int, tmp_path: Path
) -> None:
    model, data = written(tmp_path, opset)
    done = invoke("quantize", model, "--data", data, "--family", "tensorrt", "-o", tmp_path / "int8.onnx", "-q")
    assert done.exit_code == 0, done.stderr
    quantized = onnx.load(tmp_path / "int8.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) >= 2
    for sizes in ((1, 8, 8, 3), (3, 31, 20, 40)):
        expected, found = (answers(graph, *sizes) for graph in (model, tmp_path / "int8.onnx"))
        for name, values in expected.items():
            error = np.abs(found[name] - values).max() / np.abs(values).max()
            assert error < 0.1, (name, error)


@pytest.mark.parametrize("options", [(), ("--channel-extremes", "--images", "auto")])
def test_the_ranges_are_what_their_schema_says(options: tuple[str, ...], tmp_path: Path) -> None:
    model, data = written(tmp_path, 17)
    done = invoke("quantize", model, "--data", data, "--family", "tensorrt", "--repair", "none", "-q", *options)
    assert done.exit_code == 0, done.stderr
    schema = json.loads(resources.files("calibration").joinpath("ranges.schema.json").read_text())
    ranges = json.loads((tmp_path / "net.ranges.json").read_text())
    validator = Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(ranges)] == []
    del ranges["tensors"]["x"]["low"]
    assert [error.message for error in validator.iter_errors(ranges)] == ["'low' is a required property"]


def test_every_placement_is_what_its_schema_says(tmp_path: Path) -> None:
    model, data = written(tmp_path, 17, samples=16)
    random = np.random.default_rng(2)
    labels, images = random.integers(0, 32, 16), random.standard_normal((16, 3, 17, 23)).astype(np.float32)
    np.savez(tmp_path / "labelled.npz", x=images, s=np.load(data)["s"], labels=labels)
    families = [option for family in ("cpu", *FAMILIES) for option in ("--family", family)]
    made = (*families, "--tensorrt-version", "10.3.0", "--bf16", "--repair", "bias")
    done = invoke("quantize", model, "--data", data, *made, "--labels", tmp_path / "labelled.npz", "-q")
    assert done.exit_code == 0, done.stderr
    cache, out = tmp_path / "net.tensorrt-10.3.0.cache", tmp_path / "of-cache"
    done = invoke("quantize", tmp_path / "net.fp32.onnx", "--cache", cache, "--family", "tensorrt", "-o", out, "-q")
    assert done.exit_code == 0, done.stderr
    found, of_cache = (
        json.loads(path.read_text()) for path in (tmp_path / "net.placement.json", out / "net.fp32.placement.json")
    )
    schema = json.loads(resources.files("pipeline.quantizing").joinpath("placement.schema.json").read_text())
    assert set(schema["$defs"]["placement"]["properties"]["family"]["enum"]) == set(FAMILIES)
    validator = Draft202012Validator(schema)
    for document in (found, of_cache):
        assert [error.message for error in validator.iter_errors(document)] == []
    assert set(found["families"]) == {"cpu", *FAMILIES}
    assert len(found["repairs"]) > 0
    assert all(repair["metric"]["samples"] == 16 for repair in found["repairs"])
    assert "float32_in_bf16" in found
    assert of_cache["missing_graphs"]["fp16.onnx"].startswith("no FP16 graph, because a cache does not")
    del found["families"]["cpu"]["decisions"][0]["rule"]
    assert [error.message for error in validator.iter_errors(found)] == ["'rule' is a required property"]


def test_one_graph_gets_the_name_that_is_given_and_the_rest_lies_beside_it(tmp_path: Path) -> None:
    model, data = written(tmp_path, 17)
    out = tmp_path / "made" / "mine.onnx"
    asked = ("quantize", model, "--data", data, "--repair", "none", "--json", "-q")
    done = invoke(*asked, "--family", "tensorrt-rtx", "-o", out)
    assert done.exit_code == 0, done.stderr
    assert str(out) in json.loads(done.stdout)["files"]
    names = {path.name for path in out.parent.iterdir()}
    assert {"mine.onnx", "mine.ranges.json", "mine.sketches.npz", "mine.placement.json", "mine.fp16.onnx"} <= names
    assert not [name for name in names if name.endswith(".int8.onnx")]
    both = invoke(*asked, "--family", "tensorrt-rtx", "--family", "cpu", "-o", out)
    assert both.exit_code == 2
    assert "names one graph, and 2 families are asked for; name a folder" in both.stderr
    itself = invoke(*asked, "--family", "tensorrt-rtx", "-o", model)
    assert itself.exit_code == 2
    assert "would replace the model; choose another file" in itself.stderr
