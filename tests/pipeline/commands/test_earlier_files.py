"""What an earlier `edgestill quantize` left beside the same stem goes, ours alone, and when all else is written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto
from own_graph import network, samples, saved, shown

from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_cache import CacheRequest, quantize_cache
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.errors import NotAcceptable
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.sensitivity.budget import Budget

MEASURED = {"own.fp32.onnx", "own.ranges-tensorrt.json"}
CACHE = {"own.tensorrt-10.3.0.cache", "own.tensorrt-10.3.0.cache.json"}
OF_TENSORRT = {"own.tensorrt.int8.onnx", "own.tensorrt.int8+fp16.onnx", "own.tensorrt.fp8.onnx"}
ALWAYS = {"own.ranges.json", "own.placement.json", "own.sketches.npz", "own.fp16.onnx"}
JUDGED = {"own.sensitivity.json", "own.evaluations.json"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def quantized(
    model: Path, *families: str, versions: tuple[str, ...] = (), times: float = 1, budget: Budget | None = None
) -> Outcome:
    data = saved(model.with_name("x.npz"), x=samples() * times)
    request = QuantizeRequest(
        model, data, families, "minmax", None, model.parent / "out", 8, 1, versions, repair=(), budget=budget
    )
    return quantize(request, QuietProgress(), Cancellation())


def names(model: Path) -> set[str]:
    return {file.name for file in (model.parent / "out").iterdir()}


def removed(outcome: Outcome) -> set[str]:
    paths = [str(path) for path in outcome.document["removed"]]
    told = shown(outcome, 400)
    assert all(f"removed {path}, which was of an earlier calibration" in told for path in paths)
    return {Path(path).name for path in paths}


def test_a_cache_does_not_outlive_its_calibration(model: Path) -> None:
    quantized(model, "tensorrt", versions=("10.3.0",))
    assert removed(quantized(model, "tensorrt", times=3)) == CACHE
    assert names(model) == ALWAYS | OF_TENSORRT | MEASURED


def test_what_is_for_tensorrt_and_graphs_of_other_families_go_where_none_is_asked_for(model: Path) -> None:
    quantized(model, "tensorrt", "cpu", versions=("10.3.0", "10.0.1-MinMaxCalibration"))
    other = {name.replace("10.3.0", "10.0.1-MinMaxCalibration") for name in CACHE}
    assert removed(quantized(model, "cpu", times=3)) == OF_TENSORRT | MEASURED | CACHE | other
    assert names(model) == ALWAYS | {"own.cpu.int8.onnx"}


def test_of_the_same_data_one_family_after_the_other_stays(model: Path) -> None:
    quantized(model, "tensorrt", versions=("10.3.0",))
    assert removed(quantized(model, "cpu")) == set()
    assert names(model) == ALWAYS | OF_TENSORRT | MEASURED | CACHE | {"own.cpu.int8.onnx"}


def test_a_budget_that_is_not_asked_for_any_more_leaves_no_judgement(model: Path) -> None:
    budget = Budget(min_sqnr_db=10)
    quantized(model, "cpu", budget=budget)
    assert removed(quantized(model, "cpu", budget=budget)) == set()
    assert names(model) >= JUDGED
    assert removed(quantized(model, "cpu")) == JUDGED


def test_what_somebody_else_gave_such_a_name_stays(model: Path) -> None:
    out = model.parent / "out"
    out.mkdir()
    others = {
        "own.fp32.onnx": "an export of theirs",
        "own.bf16.onnx": "an export of theirs",
        "own.tensorrt-8.6.1.cache": "TRT-8601-EntropyCalibration2\nx: 3c010204\n",  # no record of ours
        "own.sensitivity.json": '{"budget": null}',  # of `edgestill sensitivity`
        "own.evaluations.json": "{}",
        "own.tensorrt-10.3.0.cache.txt": "",
        "own.data.cache": "",
        "own.sketches.partial": "",
        "ours.tensorrt.int8.onnx": "",
        "own.tensorrt.int8.onnx": "the graph of another --out",
        "own.tensorrt.int8.placement.json": "{}",
    }
    for name, text in others.items():
        (out / name).write_text(text)
    assert removed(quantized(model, "cpu")) == set()
    assert {name: (out / name).read_text() for name in others if name != "own.sketches.partial"} == {
        name: text for name, text in others.items() if name != "own.sketches.partial"
    }


def test_a_run_that_fails_has_removed_and_replaced_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized(model, "tensorrt", "cpu", versions=("10.3.0",))
    before = {file: file.read_bytes() for file in (model.parent / "out").iterdir()}
    renamed = network()
    for node in renamed.graph.node:
        for held in (node.input, node.output):
            held[:] = ["c1 " if name == "c1" else name for name in held]
    onnx.save(renamed, model)
    with pytest.raises(NotAcceptable, match=r"tensor 'c1 ' cannot stand in a calibration cache"):
        quantized(model, "tensorrt", versions=("10.0.1",))
    assert {file: file.read_bytes() for file in before} == before

    def killed(path: Path, model: ModelProto) -> list[Path]:
        raise KeyboardInterrupt

    onnx.save(network(), model)
    monkeypatch.setattr("pipeline.commands.quantize.write_graph", killed)
    with pytest.raises(KeyboardInterrupt):
        quantized(model, "cpu", times=2)
    assert names(model) >= {file.name for file in before}


def test_from_a_cache_of_the_same_folder_its_own_graph_and_table_stay(model: Path) -> None:
    out = model.parent / "out"
    quantized(model, "tensorrt", versions=("10.3.0",))
    given = out / "own.tensorrt-10.3.0.cache"
    theirs = model.with_name("calib.cache")
    theirs.write_bytes(given.read_bytes())
    ours = quantize_cache(CacheRequest(model, given, ("tensorrt-rtx",), out))
    assert removed(ours) == OF_TENSORRT | {"own.fp16.onnx"}
    assert names(model) >= MEASURED | CACHE
    assert removed(quantize_cache(CacheRequest(model, theirs, ("tensorrt-rtx",), out))) == MEASURED | CACHE
    assert names(model) == ALWAYS - {"own.fp16.onnx"} | {"own.tensorrt-rtx.int8.onnx"}
    assert theirs.exists()
