"""Calibration of a user's own graph: what the graph and its data fix, and what does not fit together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from own_graph import network, quantized, samples, saved, shown

from calibration import external_data, external_tensors
from pipeline.errors import DataRejected, IntegrityError, NotAcceptable, RecipeError
from pipeline.quantizing.inputs.graph_inputs import GraphInput, size_of_batches

WITHOUT_HALF = """
<ir_version: 8, opset_import: ["" : 18]>
own (float[N, 1, 8, 8] x) => (float[N, 3] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    s = SequenceEmpty ()
    t = SequenceInsert (s, c1)
    r1 = ConcatFromSequence <axis = 1> (t)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
    p = GlobalAveragePool (c2)
    f = Flatten (p)
    y = Gemm (f, w3, b3)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where a user's own graph is."""
    return tmp_path / "own.onnx"


def of_batch(size: int, path: Path) -> Path:
    graph = network()
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    graph.graph.output[0].type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(graph, path)
    return path


@pytest.mark.parametrize("size", [1, 5])
def test_a_batch_size_that_the_graph_fixes_is_the_one_it_is_fed(model: Path, size: int) -> None:
    outcome = quantized(of_batch(size, model), saved(model.with_name("x.npz"), x=samples(20)))
    assert (outcome.document["images"], outcome.document["batch_size"]) == (20, size)


def test_samples_that_do_not_fill_the_batches_of_the_graph_are_rejected(model: Path) -> None:
    said = r"x\.npz: holds 20 samples; the graph takes batches of exactly 8: give a multiple of it, or export"
    with pytest.raises(DataRejected, match=said):
        quantized(of_batch(8, model), saved(model.with_name("x.npz"), x=samples(20)))


def test_a_graph_whose_inputs_fix_different_batch_sizes_is_refused() -> None:
    inputs = {name: GraphInput(np.dtype(np.float32), (size, 4)) for name, size in (("a", 1), ("b", 2))}
    with pytest.raises(NotAcceptable, match=r"fix different batch sizes: \{'a': 1, 'b': 2\}; export it with a dynamic"):
        size_of_batches(inputs, 32)


def test_preprocessing_that_nothing_would_apply_is_refused(model: Path) -> None:
    onnx.save(network(), model)
    preprocess = model.with_name("preprocess.json")
    preprocess.write_text('{"scale": 0.0039}')
    with pytest.raises(RecipeError, match=r"--preprocess .*preprocess\.json is for a folder of images; .*x\.npz holds"):
        quantized(model, saved(model.with_name("x.npz"), x=samples()), preprocess=preprocess)


def without_weights(model: Path) -> None:
    model.with_name("ext.data").unlink()


def with_half_the_weights(model: Path) -> None:
    file = model.with_name("ext.data")
    file.write_bytes(file.read_bytes()[:50])


def with_a_link_to_weights(model: Path) -> None:
    file = model.with_name("ext.data")
    moved = file.rename(model.with_name("moved.data"))
    file.symlink_to(moved)


def with_weights_elsewhere(model: Path) -> None:
    graph = onnx.load(model, load_external_data=False)
    for tensor in graph.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../ext.data"
    model.write_bytes(graph.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "why", "why_over_the_limit"),
    [
        (without_weights, "not regular file", "no regular file there"),
        (with_half_the_weights, "exceeds available data", r"288 bytes of 'ext\.data'; \d+ are there"),
        (with_weights_elsewhere, "points outside the directory", "outside of the graph's folder"),
        (with_a_link_to_weights, "symbolic link", "no regular file there"),
    ],
)
@pytest.mark.parametrize("over_the_limit", [False, True])
def test_weights_that_are_not_beside_the_graph_are_named(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    why: str,
    why_over_the_limit: str,
    over_the_limit: bool,
) -> None:
    if over_the_limit:
        monkeypatch.setattr(external_data, "LARGEST_PROTOBUF_BYTES", 2000)
        monkeypatch.setattr(external_tensors, "LEAST_EXTERNAL_BYTES", 64)
        why = why_over_the_limit
    onnx.save(network(), model, save_as_external_data=True, location="ext.data", size_threshold=0)
    data = saved(model.with_name("x.npz"), x=samples())
    assert quantized(model, data).document["images"] == 20
    damage(model)
    with pytest.raises(IntegrityError, match=rf"own\.onnx: its weights cannot be read \(.*{why}.*\); files of weights"):
        quantized(model, data)


def test_a_graph_without_a_half_form_still_becomes_int8_and_says_why_there_is_no_fp16(model: Path) -> None:
    data = saved(model.with_name("x.npz"), x=samples())
    onnx.save(network(), model)
    quantized(model, data)
    onnx.save(network(WITHOUT_HALF), model)
    outcome = quantized(model, data)
    why = outcome.document["placement"]["missing_graphs"]["fp16.onnx"]
    assert why.startswith("no FP16 graph, because the graph has no valid form in half precision: ")
    assert why in shown(outcome)
    assert (model.parent / "out" / "own.cpu.int8.onnx").is_file()
    assert not (model.parent / "out" / "own.fp16.onnx").exists()
