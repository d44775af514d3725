"""Graphs of 2 GB and more, as small ones for which the limit is lowered: the same results, from weights that stay in
their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_model
from own_graph import NETWORK, network, quantized, samples, saved

from calibration import external_data, external_tensors
from calibration.external_data import digest, is_large, loaded
from calibration.external_tensors import values_of
from calibration.quality import session_as_written
from engines.files import sha256_of_file
from pipeline.commands.calibrate import CalibrateRequest, calibrate
from pipeline.commands.lint import LintRequest, lint
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.files.onnx_file import loaded_graph, write_graph
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress

FP32_BYTES = 2764
"""Of all weights of the network; the INT8 graph has 1.1 kB of them."""


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Below FP32_BYTES; tensors from 64 bytes on are left in their file."""
    monkeypatch.setattr(external_data, "LARGEST_PROTOBUF_BYTES", 2000)
    monkeypatch.setattr(external_tensors, "LEAST_EXTERNAL_BYTES", 64)
    return monkeypatch


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "own.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="own.weights", size_threshold=0)
    saved(tmp_path / "x.npz", x=samples())
    return path


def whole(path: Path) -> ModelProto:
    """As any other program reads it."""
    found = onnx.load(path, load_external_data=False)
    load_external_data_for_model(found, str(path.parent))
    return found


def weights(model: ModelProto) -> dict[str, bytes]:
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}


def answers(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": samples(4)})[0])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("family", ["cpu-avx2", "tensorrt-rtx", "tensorrt-dla"])
def test_a_graph_over_the_limit_is_quantized_to_what_it_is_quantized_to_below_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    quantized(model, model.with_name("x.npz"), family, method="entropy")
    below = contents(model.parent / "out")
    monkeypatch.setattr(external_data, "LARGEST_PROTOBUF_BYTES", FP32_BYTES - 1)
    monkeypatch.setattr(external_tensors, "LEAST_EXTERNAL_BYTES", 64)
    assert is_large(loaded(model))
    quantized(model, model.with_name("x.npz"), family, method="entropy")
    over = contents(model.parent / "out")
    graphs = [name for name in below if name.endswith(".onnx")]
    assert set(over) - set(below) == ({"own.fp32.onnx.data"} if family == "tensorrt-dla" else set())
    for name in graphs:
        before, now = onnx.load_from_string(below[name]), whole(model.parent / "out" / name)
        assert weights(now) == weights(before)
        assert list(now.graph.node) == list(before.graph.node)
    assert over["own.ranges.json"] == below["own.ranges.json"]


def test_a_result_over_the_limit_has_its_weights_in_a_file_beside_it(model: Path, limit: pytest.MonkeyPatch) -> None:
    quantized(model, model.with_name("x.npz"))
    file = model.parent / "out" / "own.cpu.int8.onnx"
    wanted = answers(file)
    beside = file.with_name("own.cpu.int8.onnx.data")
    assert not beside.exists()
    limit.setattr(external_data, "LARGEST_PROTOBUF_BYTES", 500)
    outcome = quantized(model, model.with_name("x.npz"))
    assert {str(file), str(beside)} <= set(outcome.document["files"])
    assert beside.is_file()
    assert not beside.is_symlink()
    places = {
        entry.value
        for tensor in onnx.load(file, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert places == {beside.name}
    moved = file.parent.rename(file.parent.with_name("moved"))
    assert np.array_equal(answers(moved / file.name), wanted)


def test_the_weights_of_an_earlier_larger_graph_do_not_stay(tmp_path: Path, limit: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.onnx"
    assert write_graph(file, network()) == [file, tmp_path / "a.onnx.data"]
    limit.undo()
    assert write_graph(file, network()) == [file]
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.usefixtures("limit")
def test_a_graph_whose_weights_could_not_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.onnx"
    write_graph(file, network())

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(external_data, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_graph(file, network())
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx.data"]


@pytest.mark.usefixtures("limit")
def test_the_digest_of_a_graph_over_the_limit_is_of_its_weights_too(model: Path) -> None:
    before = digest(loaded(model))
    assert digest(loaded(model)) == before
    file = model.with_name("own.weights")
    changed = bytearray(file.read_bytes())
    changed[400] ^= 1
    file.write_bytes(changed)
    assert digest(loaded(model)) != before


@pytest.mark.usefixtures("limit")
def test_a_graph_over_the_limit_runs_with_the_weights_that_it_refers_to(model: Path) -> None:
    referring, holding = (session_as_written(graph, 1) for graph in (loaded(model), onnx.load(model)))
    feeds = {"x": samples(4)}
    assert np.array_equal(referring.run(None, feeds)[0], holding.run(None, feeds)[0])


@pytest.mark.usefixtures("limit")
def test_a_constant_inside_a_branch_is_loaded_with_the_graph(tmp_path: Path) -> None:
    text = NETWORK.replace(
        "y = Gemm (f, w3, b3)", "g = Gemm (f, w3, b3)  k = Constant <value = float[3] {1, 2, 3}> ()  y = Add (g, k)"
    )
    file = tmp_path / "own.onnx"
    model = network(text)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                attribute.t.CopyFrom(numpy_helper.from_array(np.array([1, 2, 3], np.float32), "k"))
    onnx.save(model, file, save_as_external_data=True, location="w", size_threshold=0, convert_attribute=True)
    (constant,) = [node for node in loaded(file).graph.node if node.op_type == "Constant"]
    assert constant.attribute[0].t.data_location == TensorProto.DEFAULT
    assert list(values_of(constant.attribute[0].t)) == [1, 2, 3]


def test_a_budget_and_the_costs_of_layers_come_out_the_same_over_the_limit(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.quantizing.sensitivity.budget import Budget

    def costs() -> object:
        request = QuantizeRequest(
            model,
            model.with_name("x.npz"),
            ("cpu",),
            "minmax",
            None,
            model.parent / "out",
            8,
            1,
            budget=Budget(min_sqnr_db=20),
            sensitivity="exact",
        )
        return quantize(request, QuietProgress(), Cancellation()).document["sensitivity"]

    below = costs()
    monkeypatch.setattr(external_data, "LARGEST_PROTOBUF_BYTES", 2000)
    monkeypatch.setattr(external_tensors, "LEAST_EXTERNAL_BYTES", 64)
    assert costs() == below


@pytest.mark.usefixtures("limit")
def test_shards_and_lint_take_a_graph_over_the_limit(model: Path) -> None:
    request = CalibrateRequest(model, model.with_name("x.npz"), "1/2", None, None, 8, 1)
    assert calibrate(request, QuietProgress(), Cancellation()).document["images"] == 10
    assert lint(LintRequest(model, ("tensorrt",))).exit_code == 0


def test_ranges_beside_a_graph_over_the_limit_are_of_the_graph_as_written(
    model: Path, limit: pytest.MonkeyPatch
) -> None:
    del limit
    quantized(model, model.with_name("x.npz"), "tensorrt")
    out = model.parent / "out"
    assert sha256_of_file(out / "own.fp32.onnx") in (out / "own.ranges-tensorrt.json").read_text()
    assert is_large(loaded_graph(out / "own.fp32.onnx"))
