"""How many images a calibration goes through: all, the first so many, or as many as its ranges need."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from own_graph import network, samples, saved
from stops_after import StopsAfter

from calibration.statistics.collect import Batch
from calibration.statistics.sufficiency import marks
from pipeline.commands.calibrate import CalibrateRequest, calibrate
from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.commands.quantize_sketches import SketchesRequest, quantize_sketches
from pipeline.errors import Cancelled, DataRejected, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.inputs.array_inputs import data_from_npz
from pipeline.quantizing.inputs.calibration_images import asked_for, images_from_text, spread
from pipeline.quantizing.inputs.graph_inputs import GraphInput
from pipeline.quantizing.settings import CalibrationData


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def unlike(count: int) -> NDArray[np.float32]:
    """Images that differ so much in contrast that no number of them is enough."""
    contrast = np.exp(2 * np.random.default_rng(2).standard_normal(count)).astype(np.float32)
    return np.asarray(samples(count) * contrast[:, None, None, None], np.float32)


def data_of(count: int, images_a_run: int = 1, batch_size: int = 8) -> CalibrationData:
    values = np.arange(count, dtype=np.float32)[:, None]

    def between(start: int, stop: int) -> Iterator[Batch]:
        for first in range(start, stop, batch_size):
            rows = slice(first, min(first + batch_size, stop))
            yield Batch([str(int(value)) for value in values[rows, 0]], {"x": values[rows]})

    return CalibrationData(count, lambda: between(0, count), between, images_a_run=images_a_run)


def ids_of(batches: Iterator[Batch]) -> list[int]:
    return [int(name) for batch in batches for name in batch.ids]


@pytest.mark.parametrize("count", [1, 2, 3, 50, 97, 400])
def test_in_the_spread_order_each_sample_comes_once_with_its_own_values(count: int) -> None:
    batches = list(spread(data_of(count)).batches())
    assert sorted(ids_of(iter(batches))) == list(range(count))
    assert all(batch.feeds["x"][:, 0].tolist() == [float(name) for name in batch.ids] for batch in batches)


def test_the_beginning_of_the_spread_order_has_each_class_of_data_that_is_sorted_by_class() -> None:
    first = ids_of(spread(data_of(400)).part(0, 32))
    per_class = np.bincount(np.array(first) // 40, minlength=10)
    assert per_class.min() >= 2
    assert per_class.max() <= 5


def test_between_two_marks_samples_come_in_the_order_of_the_data_and_at_each_mark_are_spread() -> None:
    found = ids_of(spread(data_of(400)).batches())
    edges = [0, 16, *marks(400, 1), 400]
    for start, stop in pairwise(edges):
        assert found[start:stop] == sorted(found[start:stop])
        assert np.bincount(np.array(found[:stop]) // 100, minlength=4).min() >= stop // 4 - 2
    part = [*ids_of(spread(data_of(400)).part(0, 40)), *ids_of(spread(data_of(400)).part(40, 400))]
    assert part == found  # wherever a pass was stopped and taken up again


def test_a_compressed_file_is_gone_through_once_for_each_stretch_between_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=samples(200))
    data = asked_for(data_from_npz(tmp_path / "x.npz", graph_inputs_of(), 8), "auto", "--images")
    opened: list[int] = []
    real = zipfile.ZipFile.open

    def counted(self: zipfile.ZipFile, *arguments: Any, **more: Any) -> Any:
        opened.append(1)
        return real(self, *arguments, **more)

    monkeypatch.setattr(zipfile.ZipFile, "open", counted)
    found = np.concatenate([batch.feeds["x"] for batch in data.batches()])
    assert len(opened) == len([16, *marks(200, 1), 200])
    assert np.array_equal(np.sort(found, axis=0), np.sort(samples(200), axis=0))


def graph_inputs_of() -> dict[str, GraphInput]:
    return {"x": GraphInput(np.dtype(np.float32), (None, *samples(1).shape[1:]))}


def test_what_the_graph_takes_together_stays_together() -> None:
    found = ids_of(spread(data_of(24, images_a_run=4, batch_size=4)).batches())
    runs = [found[start : start + 4] for start in range(0, 24, 4)]
    assert sorted(runs) == [list(range(start, start + 4)) for start in range(0, 24, 4)]
    assert runs != sorted(runs)


def test_marks_are_whole_runs_below_the_number_of_samples() -> None:
    assert list(marks(200, 1)) == [32, 48, 64, 96, 128, 192]
    assert list(marks(128, 5)) == [35, 50, 65, 100]
    assert list(marks(32, 1)) == []


@pytest.mark.parametrize("text", ["some", "0", "-3", "1.5", ""])
def test_images_are_all_auto_or_a_number(text: str) -> None:
    with pytest.raises(ValueError, match=f"images must be all, auto or a number of images such as 500, found '{text}'"):
        images_from_text(text)


def test_a_number_is_the_first_so_many_and_more_than_there_are_is_refused() -> None:
    assert ids_of(asked_for(data_of(20), 5, "--images").batches()) == [0, 1, 2, 3, 4]
    with pytest.raises(DataRejected, match="--images 21, but there are 20; lower it or give more"):
        asked_for(data_of(20), 21, "--images")
    with pytest.raises(DataRejected, match="the graph takes batches of exactly 4: ask for a multiple of it"):
        asked_for(data_of(20, images_a_run=4), 6, "--images")


def quantized(model: Path, data: Path, images: str, out: str, batch_size: int = 8, threads: int = 1) -> Outcome:
    request = QuantizeRequest(
        model, data, ("cpu",), "percentile:99", None, model.parent / out, batch_size, threads, repair=(), images=images
    )
    return quantize(request, QuietProgress(), Cancellation())


def test_auto_stops_where_the_ranges_are_tight_and_says_how_many_images_that_took(model: Path) -> None:
    outcome = quantized(model, saved(model.with_name("x.npz"), x=samples(300)), "auto", "out")
    images = outcome.document["images"]
    assert images in (32, 48, 64, 96)
    assert f"{images} of 300 images were enough for tight ranges" in outcome.document["notes"]
    ranges = outcome.document["ranges"]
    assert (ranges["images"], ranges["samples"], ranges["until_tight"]) == (images, 300, True)
    assert ranges["confidence"]["within_tolerance"] >= 0.95 * ranges["confidence"]["tensors"]


def test_auto_with_images_that_never_agree_uses_all_and_says_so(model: Path) -> None:
    outcome = quantized(model, saved(model.with_name("x.npz"), x=unlike(70)), "auto", "out")
    assert outcome.document["images"] == 70
    assert "the ranges are not tight, with all 70 images that there are: give more" in outcome.document["notes"]


def test_batches_and_threads_change_no_byte_of_an_auto_pass(model: Path) -> None:
    data = saved(model.with_name("x.npz"), x=samples(300))
    quantized(model, data, "auto", "one")
    quantized(model, data, "auto", "other", batch_size=5, threads=2)
    for name in ("own.sketches.npz", "own.ranges.json", "own.cpu.int8.onnx"):
        assert (model.parent / "one" / name).read_bytes() == (model.parent / "other" / name).read_bytes()


def request(model: Path, data: Path, name: str, shard: str = "1/1") -> CalibrateRequest:
    return CalibrateRequest(
        model, data, shard, model.with_name(name), None, 16, 1, images="auto", method="percentile:99"
    )


@pytest.mark.parametrize("batches", [1, 2], ids=["before the first mark", "at a mark"])
def test_a_stopped_auto_pass_goes_on_to_the_same_bytes(model: Path, batches: int) -> None:
    data = saved(model.with_name("x.npz"), x=samples(300))
    calibrate(request(model, data, "whole.npz"), QuietProgress(), Cancellation())
    with pytest.raises(Cancelled):
        calibrate(request(model, data, "stopped.npz"), QuietProgress(), StopsAfter(batches))
    calibrate(request(model, data, "stopped.npz"), QuietProgress(), Cancellation())
    assert model.with_name("stopped.npz").read_bytes() == model.with_name("whole.npz").read_bytes()


def test_sketches_of_an_auto_pass_give_the_ranges_of_quantize(model: Path) -> None:
    data = saved(model.with_name("x.npz"), x=samples(300))
    quantized(model, data, "auto", "out")
    sketches = Path(calibrate(request(model, data, "s.npz"), QuietProgress(), Cancellation()).document["file"])
    quantize_sketches(SketchesRequest(model, (sketches,), ("cpu",), "percentile:99", model.parent / "merged"))
    for name in ("own.sketches.npz", "own.ranges.json"):
        assert (model.parent / "merged" / name).read_bytes() == (model.parent / "out" / name).read_bytes()


def test_a_shard_cannot_know_when_all_have_seen_enough(model: Path) -> None:
    data = saved(model.with_name("x.npz"), x=samples(40))
    with pytest.raises(RecipeError, match="--images auto looks at all images that came, and a shard sees its own"):
        calibrate(request(model, data, "s.npz", "1/2"), QuietProgress(), Cancellation())
