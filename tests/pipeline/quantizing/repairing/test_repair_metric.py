"""A repair is judged by the task's metric where there are labels, and by the output where they leave it open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from onnx_networks import NetworkBuilder
from spiked_network import spiked_samples

from calibration.qdq import quantize as int8_of
from calibration.quality import OutputQuality, Quality, session_as_written
from calibration.repairs.rounding import roundings_of
from calibration.statistics.collect import Batch
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.errors import RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.inputs.calibration_images import evenly, evenly_spaced
from pipeline.quantizing.judging.yardstick import JudgingData, Top1Accuracy
from pipeline.quantizing.quantization import quantized
from pipeline.quantizing.quantized import Quantized, placement_document
from pipeline.quantizing.repairing.repair_metric import METRIC_SAMPLES, MetricChange, RepairJudge
from pipeline.quantizing.repairing.repair_trial import Trial, decided_together
from pipeline.quantizing.settings import CalibrationData, QuantizationSettings, checked_repair
from pipeline.tasks.intervals import Interval

Labels = NDArray[np.int64]
UNSEEN = spiked_samples(200, seed=7)


def network() -> ModelProto:
    """Large weights make the grid of each channel so coarse that rounding changes decisions."""
    net = NetworkBuilder()
    x = "image"
    for c_in, c_out in ((3, 16), (16, 16)):
        weight = net.normal(c_out, c_in, 3, 3, scale=0.1)
        weight[:, 0, 1, 1] = 16.0
        x = net.node("Relu", net.node("Conv", x, net.weight(weight), pads=[1, 1, 1, 1]))
    flat = net.node("Flatten", x)
    net.node("Gemm", flat, net.weight(net.normal(64, 1024, scale=0.03)), output="logits", transB=1)
    return net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 64]})


def batches_of(values: NDArray[np.float32], size: int) -> Iterator[Batch]:
    for start in range(0, len(values), size):
        part = values[start : start + size]
        yield Batch([str(start + row) for row in range(len(part))], {"image": part})


def repaired(folder: Path, labels: Labels | None, *repair: str) -> Quantized:
    onnx.save(network(), folder / "own.onnx")
    samples = spiked_samples(64)

    judge = None
    if labels is not None:
        data = JudgingData(len(UNSEEN), lambda: batches_of(UNSEEN, 50), labels, "validation split", "0", 1000)
        judge = RepairJudge(data, Top1Accuracy("logits"), 1, QuietProgress(), Cancellation())
    settings = QuantizationSettings("minmax", ("tensorrt",), repair=checked_repair(repair))
    data_of = CalibrationData(64, lambda: batches_of(samples, 32))
    return quantized(folder / "own.onnx", data_of, settings, QuietProgress(), Cancellation(), judge=judge)


def classes(model: ModelProto) -> Labels:
    logits = session_as_written(model, 1).run(None, {"image": UNSEEN})[0]
    return np.asarray(logits.argmax(1), np.int64)


def test_a_repair_that_costs_accuracy_beyond_chance_is_refused_though_the_output_gains(tmp_path: Path) -> None:
    plain = repaired(tmp_path, None, "none").int8["tensorrt"]
    by_output = repaired(tmp_path, None, "rounding")
    assert by_output.repairs[0].kept
    right_without = classes(plain)  # what the graph without the repair answers is right by definition
    assert (right_without != classes(by_output.int8["tensorrt"])).sum() > 5
    found = repaired(tmp_path, right_without, "rounding")
    (trial,) = found.repairs
    assert not trial.kept
    assert trial.gain_db > 1
    assert "; top-1 accuracy 100.0% -> " in trial.in_words()
    assert trial.in_words().endswith(
        " on 200 of 1,000 samples of the validation split: left out, because top-1 accuracy is worse with it"
    )
    assert found.int8["tensorrt"] == plain


def test_a_repair_whose_metric_is_open_goes_by_the_output_and_one_that_is_right_more_often_is_kept(
    tmp_path: Path,
) -> None:
    by_output = repaired(tmp_path, None, "rounding")
    after = classes(by_output.int8["tensorrt"])
    better = repaired(tmp_path, after, "rounding").repairs[0]
    assert (better.kept, better.decided_by) == (True, "metric")
    assert better.in_words().endswith("kept, because top-1 accuracy is better with it")
    before = classes(repaired(tmp_path, None, "none").int8["tensorrt"])
    chance = np.where((before != after).cumsum() % 2, before, after)  # each is right in half of what they differ in
    open_ = repaired(tmp_path, chance, "rounding").repairs[0]
    assert (open_.kept, open_.decided_by) == (True, "output error")
    assert open_.metric is not None
    assert open_.metric.gain.low < 0 < open_.metric.gain.high
    assert by_output.repairs[0].metric is None


def test_the_artifact_has_what_was_measured(tmp_path: Path) -> None:
    found = repaired(tmp_path, classes(network()), "rounding", "bias")
    entries = placement_document(found)["repairs"]
    assert [entry["repair"] for entry in entries] == ["rounding", "bias"]
    metric = entries[0]["metric"]
    made_from = list(batches_of(spiked_samples(64), 32))[:1]
    rounding = roundings_of(found.measured, found.placements, made_from, 1, found.weights)["tensorrt"]
    right = [
        (classes(int8_of(found.measured, found.ranges, found.placements["tensorrt"], roundings=each)) == truth).mean()
        for truth in (classes(network()),)
        for each in ({}, rounding)
    ]
    assert (metric["before"], metric["after"]) == pytest.approx(right)
    assert metric["gain_points"]["value"] == pytest.approx(100 * (right[1] - right[0]))
    assert (metric["samples"], metric["of_samples"], metric["judged_on"]) == (200, 1000, "validation split")
    assert metric["confidence"] == 0.95
    json.dumps(entries, allow_nan=False)


def change(low: float, high: float) -> MetricChange:
    return MetricChange("accuracy", "validation split", 100, 0.9, 0.9, Interval((low + high) / 2, low, high, 100))


def trial(family: str, low: float, high: float, sqnr_db: float = 30.0) -> Trial:
    before, after = (Quality(32, {"logits": OutputQuality(db, None)}) for db in (20.0, sqnr_db))
    found = change(low, high)
    if found.worsens or found.improves:
        return Trial("equalize", family, before, after, found.improves, found, "metric")
    return Trial("equalize", family, before, after, sqnr_db > 20, found)


def test_a_repair_that_all_families_share_is_kept_where_none_loses_by_it() -> None:
    together = decided_together([trial("cpu", 0.01, 0.02), trial("tensorrt", -0.02, -0.01)])
    assert [each.kept for each in together] == [False, False]
    assert "left out, because another family's accuracy is worse with it" in together[0].in_words()
    assert "left out, because accuracy is worse with it" in together[1].in_words()
    together = decided_together([trial("cpu", 0.01, 0.02), trial("tensorrt", -0.01, 0.01, sqnr_db=19.0)])
    assert [(each.kept, each.decided_by) for each in together] == [(True, "metric")] * 2
    together = decided_together([trial("cpu", -0.01, 0.02), trial("tensorrt", -0.01, 0.01, sqnr_db=19.0)])
    assert [(each.kept, each.decided_by) for each in together] == [(False, "output error")] * 2


def test_some_samples_are_spread_over_all_of_them_in_their_order_and_in_whole_runs() -> None:
    assert evenly_spaced(1000, 4).tolist() == [0, 250, 500, 750]
    assert evenly_spaced(3, 10).tolist() == [0, 1, 2]
    values = np.arange(100, dtype=np.float32).reshape(100, 1)

    def between(start: int, stop: int) -> Any:
        yield Batch([str(i) for i in range(start, stop)], {"x": values[start:stop]})

    data = CalibrationData(100, lambda: between(0, 100), between, images_a_run=5)
    some, numbers = evenly(data, 12)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 50, 51, 52, 53, 54]
    assert [int(x[0]) for batch in some.batches() for x in batch.feeds["x"]] == numbers.tolist()
    single, numbers = evenly(replace(data, images_a_run=1), 40)
    assert [name for batch in single.batches() for name in batch.ids] == [str(number) for number in numbers]
    assert evenly(data, 100)[0] is data


def test_labels_of_a_users_own_data_judge_the_repairs(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "own.onnx")
    np.savez(tmp_path / "data.npz", image=spiked_samples(64))
    many = spiked_samples(METRIC_SAMPLES + 20, seed=7)
    logits = session_as_written(network(), 1).run(None, {"image": many})[0]
    np.savez(tmp_path / "validation.npz", image=many, labels=logits.argmax(1))
    request = QuantizeRequest(
        tmp_path / "own.onnx",
        tmp_path / "data.npz",
        ("tensorrt",),
        "minmax",
        None,
        tmp_path / "out",
        32,
        1,
        validation=tmp_path / "validation.npz",
    )
    outcome = quantize(request, QuietProgress(), Cancellation())
    (note,) = [each for each in outcome.document["notes"] if each.startswith("repair rounding")]
    assert "; top-1 accuracy " in note
    assert " on 256 of 276 samples of the validation data: kept" in note
    with pytest.raises(RecipeError, match=r"data\.npz: has no labels to judge repairs by"):
        quantize(replace(request, validation=tmp_path / "data.npz"), QuietProgress(), Cancellation())
