"""`edgestill calibrate` and `quantize --sketches`: shards that merge into one pass, passes that go on after a kill."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from own_graph import network, quantized, samples, saved
from small_training import invoke
from stops_after import StopsAfter

from calibration.statistics import Sketches
from pipeline.commands.calibrate import CalibrateRequest, calibrate
from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize_sketches import SketchesRequest, quantize_sketches
from pipeline.errors import Cancelled, DataRejected, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import PlainProgress, QuietProgress
from pipeline.quantizing.repairing.repair import HELD_SAMPLES


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


@pytest.fixture
def data(model: Path) -> Path:
    return saved(model.with_name("x.npz"), x=samples(21))


def request(model: Path, data: Path, shard: str = "1/1", batch_size: int = 4) -> CalibrateRequest:
    return CalibrateRequest(
        model, data, shard, model.with_name(f"{shard.replace('/', '-')}.npz"), None, batch_size, threads=1
    )


def calibrated(model: Path, data: Path, shard: str = "1/1") -> Path:
    return Path(calibrate(request(model, data, shard), QuietProgress(), Cancellation()).document["file"])


def quantized_from(model: Path, *sketches: Path) -> Outcome:
    return quantize_sketches(SketchesRequest(model, sketches, ("cpu",), "minmax", model.parent / "merged"))


def test_shards_in_any_order_give_the_bytes_of_one_pass(model: Path, data: Path) -> None:
    shards = [calibrated(model, data, f"{number}/3") for number in (2, 3, 1)]
    assert quantized_from(model, *shards).document["images"] == 21
    quantized(model, data)
    for name in ("own.sketches.npz", "own.ranges.json", "own.fp16.onnx"):
        assert (model.parent / "merged" / name).read_bytes() == (model.parent / "out" / name).read_bytes()


def written_by(*command: str | Path) -> dict[str, bytes]:
    out = Path(command[-1])
    done = invoke("quantize", *command, "-q")
    assert done.exit_code == 0, done.stderr
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_shards_with_the_begin_of_the_data_give_the_bytes_of_one_pass_and_its_repairs(model: Path) -> None:
    data = saved(model.with_name("all.npz"), x=samples(80))
    part = saved(model.with_name("part.npz"), x=samples(80)[:HELD_SAMPLES])
    shards = [each for number in (1, 2) for each in ("--sketches", calibrated(model, data, f"{number}/2"))]
    asked = (model, "--family", "tensorrt", "--family", "cpu", "--tensorrt-version", "10.3.0")
    whole = written_by(*asked, "--data", data, "-o", model.parent / "whole")
    merged = written_by(*asked, *shards, "--data", part, "-o", model.parent / "merged")
    assert merged == whole
    document = json.loads(merged["own.placement.json"])
    assert {trial["repair"] for trial in document["repairs"]} >= {"rounding", "bias"}


def test_shards_are_judged_on_the_data_beside_them(model: Path, data: Path) -> None:
    sketches = calibrated(model, data)
    part = saved(model.with_name("part.npz"), x=samples(21)[:18])
    asked = (model, "--sketches", sketches, "--data", part, "--family", "tensorrt", "--min-sqnr", "5")
    done = invoke("quantize", *asked, "-o", model.parent / "judged", "-q")
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"the ranges are of the 21 images of --sketches; all else saw the 18 of {part}" in said
    assert "on the 18 samples of the calibration data the ranges may have been measured on the same samples" in said


def test_repairs_that_would_measure_again_are_refused_beside_shards(model: Path, data: Path) -> None:
    sketches = calibrated(model, data)
    asked = ("quantize", model, "--sketches", sketches, "--data", data, "--family", "tensorrt", "-q")
    auto, shift = invoke(*asked, "--repair", "auto"), invoke(*asked, "--repair", "shift")
    assert (auto.exit_code, shift.exit_code) == (2, 2)
    assert "repair 'equalize' measures all data again, and --sketches are of the graph as it was: write" in auto.stderr
    assert "write --repair widen --repair rounding --repair bias, or give all data with --data and no" in auto.stderr
    assert "repair 'shift' measures all data again, and --sketches are of the graph as it was: leave it" in shift.stderr


def test_without_data_a_line_says_that_no_repair_was_tried(model: Path, data: Path) -> None:
    done = invoke("quantize", model, "--sketches", calibrated(model, data), "--family", "tensorrt", "-q")
    assert done.exit_code == 0, done.stderr
    assert "no repair was tried, since there are no data: some of them are enough, with --data beside" in done.stdout


def test_a_missing_shard_and_one_given_twice_are_refused(model: Path, data: Path) -> None:
    first, third = calibrated(model, data, "1/3"), calibrated(model, data, "3/3")
    with pytest.raises(DataRejected, match="of 3 shards 2 is missing; give all of them"):
        quantized_from(model, first, third)
    with pytest.raises(DataRejected, match=r"3-3\.npz: shard 3/3 is in .*3-3\.npz already; give each shard once"):
        quantized_from(model, first, third, third)


def test_shards_of_other_data_or_of_another_graph_are_refused(model: Path, data: Path) -> None:
    first = calibrated(model, data, "1/2")
    other = calibrated(model, saved(model.with_name("other.npz"), x=samples(21) + np.float32(1)), "2/2")
    with pytest.raises(DataRejected, match="or their data differ; divide the same data once"):
        quantized_from(model, first, other)
    changed = network()
    changed.graph.initializer[0].raw_data = changed.graph.initializer[0].raw_data[::-1]
    onnx.save(changed, model)
    with pytest.raises(DataRejected, match=r"1-2\.npz: was measured on another graph; calibrate the one that is"):
        quantized_from(model, first)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "1/0", "a/b"])
def test_a_shard_that_is_none_is_refused(model: Path, data: Path, shard: str) -> None:
    with pytest.raises(RecipeError, match=f"--shard: shard '{shard}' is none; write NUMBER/OF"):
        calibrate(CalibrateRequest(model, data, shard, None, None, 4, 1), QuietProgress(), Cancellation())


def test_more_shards_than_samples_are_refused(model: Path, data: Path) -> None:
    with pytest.raises(RecipeError, match="22 shards of 21 samples: some would be empty; make fewer shards"):
        calibrate(request(model, data, "1/22"), QuietProgress(), Cancellation())


def test_sketches_that_are_not_there_are_refused(model: Path, data: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.npz: there is no such file or folder"):
        quantized_from(model, data.with_name("gone.npz"))


def test_a_stopped_pass_goes_on_where_it_was_to_the_same_bytes(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = calibrated(model, data).read_bytes()
    with pytest.raises(Cancelled):
        calibrate(request(model, data), QuietProgress(), StopsAfter(2))
    partial = model.with_name("1-1.npz.partial")
    assert Sketches.load(partial).images == 8
    calibrate(request(model, data, batch_size=3), PlainProgress(sys.stderr), Cancellation())
    assert "resumed after 8 of 21 samples" in capsys.readouterr().err
    assert model.with_name("1-1.npz").read_bytes() == whole
    assert not partial.exists()


def test_an_unfinished_file_is_neither_merged_nor_taken_up_for_other_data(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Cancelled):
        calibrate(request(model, data), QuietProgress(), StopsAfter(2))
    partial = model.with_name("1-1.npz.partial")
    with pytest.raises(DataRejected, match="holds 8 of its 21 samples; run the same edgestill calibrate again"):
        quantized_from(model, partial)
    other = saved(model.with_name("other.npz"), x=samples(9))
    outcome = calibrate(request(model, other), QuietProgress(), Cancellation())
    assert outcome.document["images"] == 9
    assert "is of another graph or other data; calibrating from the first sample on" in capsys.readouterr().err
