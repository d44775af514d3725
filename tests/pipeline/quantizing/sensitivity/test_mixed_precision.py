"""quantize --max-drop and sensitivity: which layers stay in float, by which metric, and what is left after a kill."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_networks import images, residual
from own_graph import network, samples, saved, shown
from rich.console import Console
from spiked_network import SPIKED, spiked, spiked_samples

from calibration.placement.layer_times import estimated_times_us
from calibration.prepare import prepared
from calibration.quality import session_as_written
from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.commands.sensitivity import sensitivity
from pipeline.errors import Cancelled, DataRejected, EdgestillError, MeasurementInvalid, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.judging.evaluation import Evaluator
from pipeline.quantizing.sensitivity.budget import Budget, budget_from_options

Command = Callable[[QuantizeRequest, QuietProgress, Cancellation], Outcome]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The spiked network, data to calibrate it, and other data to judge it with and without labels."""
    onnx.save(spiked(), tmp_path / "net.onnx")
    saved(tmp_path / "data.npz", image=spiked_samples())
    judged = spiked_samples(120, seed=7)
    saved(tmp_path / "other.npz", image=judged)
    logits = session_as_written(spiked(), 1).run(None, {"image": judged})[0]
    saved(tmp_path / "labelled.npz", image=judged, labels=logits.argmax(1))
    return tmp_path


def ran(
    folder: Path,
    command: Command = quantize,
    *,
    family: str = "tensorrt",
    budget: Budget | None = None,
    other: str | None = "other.npz",
    cancellation: Cancellation | None = None,
    **more: Any,
) -> Outcome:
    request = QuantizeRequest(
        folder / "net.onnx",
        folder / "data.npz",
        (family,),
        "minmax",
        None,
        folder / "out",
        20,
        1,
        budget=budget,
        validation=None if other is None else folder / other,
        **more,
    )
    return command(request, QuietProgress(), cancellation or Cancellation())


def found_in(outcome: Outcome, family: str = "tensorrt") -> dict[str, Any]:
    document = outcome.document.get("sensitivity", outcome.document)
    json.dumps(document, allow_nan=False)
    return dict(document["families"][family])


def spared_in(outcome: Outcome) -> dict[str, str]:
    decisions = outcome.document["placement"]["families"]["tensorrt"]["decisions"]
    return {each["node"]: each["reason"] for each in decisions if "spared" in each["reason"]}


def test_the_layer_that_costs_the_answers_stays_in_float_and_the_placement_says_why(folder: Path) -> None:
    outcome = ran(folder, budget=Budget(max_drop=2))
    assert outcome.exit_code == 0
    reasons = spared_in(outcome)
    assert list(reasons) == [SPIKED]
    assert reasons[SPIKED].startswith(
        "spared for the budget (agreement with FP32's top-1 at most 2 points below FP32's)"
    )
    assert "alone in INT8 it gives SQNR" in reasons[SPIKED]
    found = found_in(outcome)
    assert found["whole"]["drop_points"]["value"] > 10
    trial = found["budget"]["trials"][found["budget"]["chosen"]]
    assert (trial["spared"], trial["within"]) == ([SPIKED], True)
    assert 0.6 < trial["int8_share"] < 0.7
    written = onnx.load(folder / "out" / "net.tensorrt.int8.onnx")
    node = next(each for each in written.graph.node if each.name == SPIKED)
    assert not any("dequantized" in name for name in node.input)


def test_labels_make_it_top_1_accuracy_and_the_outcome_says_so(folder: Path) -> None:
    outcome = ran(folder, budget=Budget(max_drop=2), other="labelled.npz")
    assert (
        "judged by top-1 accuracy on the 120 samples of the validation data, with labels" in outcome.document["notes"]
    )
    assert list(spared_in(outcome)) == [SPIKED]
    assert found_in(outcome)["float_metric"] == 1.0
    np.save(folder / "labels.npy", np.load(folder / "labelled.npz")["labels"])
    same = ran(folder, budget=Budget(max_drop=2), labels=folder / "labels.npy")
    assert found_in(same) == found_in(outcome)


def test_with_labels_the_outcome_says_once_how_good_fp32_is_itself(folder: Path) -> None:
    outcome = ran(folder, budget=Budget(max_drop=2), other="labelled.npz", repair=("none",))
    notes = outcome.document["notes"]
    assert notes.count("FP32's own top-1 accuracy: 100.0% (120 samples)") == 1
    assert not [note for note in notes if note.startswith("warning: ")]
    unlabelled = ran(folder, budget=Budget(max_drop=2), repair=("none",))
    assert not [note for note in unlabelled.document["notes"] if "FP32's own" in note]


def test_labels_that_fp32_knows_no_better_than_their_most_frequent_one_are_warned_of(folder: Path) -> None:
    right = np.load(folder / "labelled.npz")["labels"]
    np.save(folder / "labels.npy", (right + 1) % 6)  # in another order of the classes
    arguments: dict[str, Any] = {"labels": folder / "labels.npy", "repair": ("none",)}
    frequent = np.bincount(right).max() / len(right)
    for command, budget in ((quantize, Budget(max_drop=50)), (sensitivity, None)):
        notes = ran(folder, command, budget=budget, sensitivity="worst", **arguments).document["notes"]
        assert "FP32's own top-1 accuracy: 0.0% (120 samples)" in notes
        (warning,) = [note for note in notes if note.startswith("warning: ")]
        assert warning.startswith(
            f"warning: to answer the most frequent label each time gives {frequent:.1%}, and FP32 is no better: "
        )


def test_that_biases_are_not_corrected_beside_spared_layers_is_said_where_they_were(folder: Path) -> None:
    said = "tensorrt: no bias correction beside spared layers: it holds for the placement it was made of"
    for repair, lost in (("bias", True), ("rounding", False), ("none", False)):
        outcome = ran(folder, budget=Budget(max_drop=2), other="labelled.npz", repair=(repair,))
        assert list(spared_in(outcome)) == [SPIKED]
        kept = [each["repair"] for each in outcome.document["placement"]["repairs"] if each["kept"]]
        assert (said in outcome.document["notes"]) == lost == ("bias" in kept)
    whole = ran(folder, budget=Budget(max_drop=100), other="labelled.npz", repair=("bias",))
    assert spared_in(whole) == {}
    assert said not in whole.document["notes"]


def test_without_other_data_the_calibration_samples_judge_and_the_outcome_warns(folder: Path) -> None:
    text = shown(ran(folder, budget=Budget(min_sqnr_db=20), other=None), width=300)
    assert "judged by agreement with FP32's top-1 on the 60 samples of the calibration data" in text
    assert "the ranges were measured on the same samples: give others with --validation" in text
    assert "tensorrt: budget met (" in text


def test_a_budget_that_nothing_meets_ends_with_1_and_the_closest_placement(folder: Path) -> None:
    outcome = ran(folder, budget=Budget(min_sqnr_db=90))
    assert outcome.exit_code == 1
    found = found_in(outcome)["budget"]
    assert not found["met"]
    assert found["why"].startswith("no placement that was tried keeps output SQNR at least 90 dB; the closest has ")
    chosen = found["trials"][found["chosen"]]
    assert chosen["sqnr_db"] == max(trial["sqnr_db"] for trial in found["trials"])
    assert (folder / "out" / "net.tensorrt.int8.onnx").exists()


def test_a_share_of_int8_that_the_budget_leaves_no_room_for_is_not_met(folder: Path) -> None:
    outcome = ran(folder, budget=Budget(max_drop=2, min_int8_share=0.9))
    assert outcome.exit_code == 1
    assert "at least 90% of the multiply-adds in INT8" in found_in(outcome)["budget"]["why"]


def test_few_samples_are_called_inconclusive_and_by_the_bound_refused(folder: Path) -> None:
    why = found_in(ran(folder, budget=Budget(max_drop=2)))["budget"]["why"]
    assert "inconclusive: 120 samples leave a drop of up to 3.10 points open, and at least 189 are needed" in why
    message = (
        "the validation data has 120 samples, which leave 3.10 points open even where no answer changes; it takes 189"
    )
    with pytest.raises(MeasurementInvalid, match=message):
        ran(folder, budget=Budget(max_drop=2, decide_by="bound"))
    assert found_in(ran(folder, budget=Budget(max_drop=4, decide_by="bound")))["budget"]["met"]


def test_latencies_choose_the_placement_that_saves_most_time(folder: Path) -> None:
    nodes = ["node_conv_0", SPIKED, "node_conv_4", "node_conv_6"]
    times = {node: {"float_ms": 2.0, "int8_ms": 1.0} for node in nodes}
    times["node_conv_6"]["int8_ms"] = 2.5
    path = folder / "latencies.json"
    path.write_text(json.dumps({"tensorrt": times}))
    outcome = ran(folder, budget=Budget(max_drop=2, latencies=str(path)))
    found = found_in(outcome)["budget"]
    chosen = found["trials"][found["chosen"]]
    assert (chosen["spared"], chosen["saved_ms"]) == ([SPIKED, "node_conv_6"], 2.0)
    reasons = {each["node"]: each["reason"] for each in found_in(outcome)["layers"]}
    assert reasons["node_conv_6"] == "measured no slower in float: INT8 would cost 0.5 ms"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"tensorrt": {"conv9": {"float_ms": 1, "int8_ms": 1}}}', "family 'tensorrt': the graph has no layer 'conv9'"),
        ('{"tensorrt": {"node_conv_0": {"float_ms": 1, "int8_ms": 1}}}', "lack layer 'node_conv_2' and 2 more; give"),
        ('{"tensorrt": {"node_conv_0": {"float_ms": -1, "int8_ms": 1}}}', "-1 is no time in milliseconds"),
        ('{"tensort": {}}', "--latencies .*: family 'tensort' is unknown; did you mean 'tensorrt'"),
        ("[]", '--latencies .* is not {"family"'),
    ],
)
def test_latencies_of_other_layers_families_or_forms_are_refused(folder: Path, content: str, message: str) -> None:
    path = folder / "latencies.json"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        ran(folder, budget=Budget(max_drop=2, latencies=str(path)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(119, int), r"labels have shape \(119,\) and dtype int64; there are 120 samples"),
        (np.zeros(120), "dtype float64"),
        (np.full(120, 6), "labels go from 6 to 6; output 'logits' has 6 classes, so they go from 0 to 5"),
    ],
)
def test_labels_that_do_not_fit_are_refused(folder: Path, labels: np.ndarray[Any, Any], message: str) -> None:
    np.save(folder / "labels.npy", labels)
    with pytest.raises(DataRejected, match=message):
        ran(folder, budget=Budget(max_drop=2), labels=folder / "labels.npy")


def test_labels_that_are_no_file_of_labels_are_refused(folder: Path) -> None:
    (folder / "labels.npy").write_bytes(b"not numpy")
    for path, message in (
        (folder / "labels.npy", "is not a readable .npy or .npz"),
        (folder / "data.npz", "has no array"),
    ):
        with pytest.raises(DataRejected, match=message):
            ran(folder, budget=Budget(max_drop=2), labels=path)


def test_a_graph_without_classes_has_a_floor_of_sqnr_and_no_drop(tmp_path: Path) -> None:
    model = network()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    for tensor in model.graph.initializer:
        if tensor.name in ("w3", "b3"):
            values = onnx.numpy_helper.to_array(tensor)[..., :1].copy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "net.onnx")
    saved(tmp_path / "data.npz", x=samples())
    with pytest.raises(RecipeError, match=r"--max-drop needs labels or an output with classes \('y' \(20, 1\)\)"):
        ran(tmp_path, budget=Budget(max_drop=2), other=None)
    outcome = ran(tmp_path, budget=Budget(min_sqnr_db=5), other=None)
    assert outcome.document["sensitivity"]["metric"] is None
    assert "judged by output SQNR on the 20 samples of the calibration data" in outcome.document["notes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0.0, None, None), "--max-drop 0: give percentage points above 0, at most 100"),
        ((101.0, None, None), "--max-drop 101: give percentage points above 0"),
        ((float("nan"), None, None), "--max-drop nan"),
        ((None, -3.0, None), "--min-sqnr -3: give dB above 0"),
        ((None, None, Path("x.json")), "--latencies is for a budget: give --max-drop or --min-sqnr with it"),
    ],
)
def test_a_budget_on_the_command_line_that_means_nothing_is_refused(options: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        budget_from_options(*options)


def test_data_that_nobody_would_look_at_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="--validation and --labels judge graphs: give --max-drop, --min-sqnr or a"):
        ran(folder, repair=("none",))
    with pytest.raises(RecipeError, match=r"other\.npz: has no labels to judge repairs by; give them with --labels"):
        ran(folder)


def test_sensitivity_prints_the_layer_that_costs_most_first(folder: Path) -> None:
    outcome = ran(folder, sensitivity, sensitivity="exact")
    found = found_in(outcome)
    costs = {each["node"]: each for each in found["layers"]}
    assert costs[SPIKED]["only"]["sqnr_db"] < 5
    assert costs[SPIKED]["without"]["sqnr_db"] > 30
    assert costs[SPIKED]["only"]["drop_points"]["value"] > 10
    assert costs["node_conv_6"]["without"]["sqnr_db"] < 5
    stream = io.StringIO()
    outcome.show(Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    rows = [line for line in lines if line.startswith("node_")]
    (legend,) = [line for line in lines if line.startswith("of all: share of the network's multiply-adds; outside: ")]
    assert lines.index(legend) == lines.index(rows[-1]) + 1 + sum(line.startswith("block ") for line in lines)
    for title in ("of all", "outside", "own dB", "alone", "all but"):
        assert f"{title}: " in legend
    assert rows[0].startswith(SPIKED)
    assert all(len(row) <= 80 for row in rows)
    assert json.loads((folder / "out" / "net.sensitivity.json").read_text())["families"]["tensorrt"] == found


def test_the_cheap_look_judges_the_most_sensitive_layers_alone_exactly(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.quantizing.sensitivity.layer_costs.MOST_SENSITIVE", 1)
    layers = found_in(ran(folder, sensitivity, sensitivity="worst"))["layers"]
    assert [each["node"] for each in layers if each["only"] is not None] == [SPIKED]


def test_the_cheap_look_judges_the_most_sensitive_blocks_too_and_a_budget_spends_nothing_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(residual((4, 8), size=4), tmp_path / "net.onnx")
    saved(tmp_path / "data.npz", image=images(20, 1, 4, 4))
    monkeypatch.setattr("pipeline.quantizing.sensitivity.layer_costs.MOST_SENSITIVE_BLOCKS", 1)
    looked = found_in(ran(tmp_path, sensitivity, other=None, sensitivity="worst", repair=("none",)))
    budgeted = found_in(ran(tmp_path, other=None, budget=Budget(min_sqnr_db=1), repair=("none",)))
    assert [len(each["groups"]) for each in (looked, budgeted)] == [2, 2]
    (judged,) = [each for each in looked["groups"] if each["only"] is not None]
    others = [each for each in looked["groups"] if each is not judged]
    noise = {each["node"]: 10 ** (-each["local_sqnr_db"] / 10) for each in looked["layers"]}
    assert all(
        sum(noise[node] for node in judged["layers"]) >= sum(noise[node] for node in each["layers"]) for each in others
    )
    assert judged["without"] is not None
    assert all(each["only"] is None for each in budgeted["groups"])


def test_sensitivity_looks_at_as_many_images_as_were_asked_for(folder: Path) -> None:
    few = ran(folder, sensitivity, sensitivity="worst", images="20", repair=("none",))
    assert "ranges of 20 images are shaky: a few hundred are usual" in few.document["notes"]
    with pytest.raises(DataRejected, match="--images 61, but there are 60; lower it or give more"):
        ran(folder, sensitivity, sensitivity="worst", images="61")


def test_sensitivity_that_was_stopped_while_it_judged_does_not_calibrate_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"sensitivity": "worst", "repair": ("none",)}
    whole = found_in(ran(folder, sensitivity, **arguments))
    assert not list((folder / "out").glob("*.partial"))
    (folder / "out" / "net.evaluations.json").unlink()

    def stopped(self: Evaluator, graph: onnx.ModelProto) -> Any:
        raise Cancelled(15)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "of", stopped)
        with pytest.raises(Cancelled):
            ran(folder, sensitivity, **arguments)
    monkeypatch.setattr("calibration.statistics.collect.collect", None)
    assert found_in(ran(folder, sensitivity, **arguments)) == whole
    assert not list((folder / "out").glob("*.partial"))


def test_a_search_that_was_stopped_goes_on_where_it_was_and_ends_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found_in(ran(folder, budget=Budget(max_drop=2)))
    (folder / "out" / "net.evaluations.json").unlink()
    judged: list[int] = []
    real = Evaluator.of

    def counting(self: Evaluator, graph: onnx.ModelProto) -> Any:
        judged.append(len(judged))
        if len(judged) == 5:
            raise Cancelled(15)
        return real(self, graph)

    monkeypatch.setattr(Evaluator, "of", counting)
    with pytest.raises(Cancelled):
        ran(folder, budget=Budget(max_drop=2))
    assert len(json.loads((folder / "out" / "net.evaluations.json").read_text())["entries"]) == 4
    judged[:] = [0] * 10
    assert found_in(ran(folder, budget=Budget(max_drop=2))) == whole
    resumed = len(judged) - 10
    (folder / "out" / "net.evaluations.json").write_text("damaged")
    judged[:] = [0] * 10
    assert found_in(ran(folder, budget=Budget(max_drop=2))) == whole
    assert len(judged) - 10 == resumed + 4


def test_another_calibration_is_judged_anew(folder: Path) -> None:
    first = found_in(ran(folder, budget=Budget(min_sqnr_db=10)))
    saved(folder / "data.npz", image=3 * spiked_samples())
    second = found_in(ran(folder, budget=Budget(min_sqnr_db=10)))
    assert first["whole"]["sqnr_db"] != second["whole"]["sqnr_db"]


def test_answers_too_large_to_keep_are_computed_anew_with_the_same_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = found_in(ran(folder, budget=Budget(max_drop=2)))
    (folder / "out" / "net.evaluations.json").unlink()
    monkeypatch.setattr("pipeline.quantizing.judging.evaluation.KEPT_BYTES", 0)
    assert found_in(ran(folder, budget=Budget(max_drop=2))) == kept


def test_a_signal_ends_the_judging_between_two_batches(folder: Path) -> None:
    cancellation = Cancellation()
    cancellation._signal = 15
    with pytest.raises(EdgestillError, match="cancelled; run the same command again to resume"):
        ran(folder, budget=Budget(max_drop=2), cancellation=cancellation)


def test_the_time_that_stays_in_float_is_estimated_for_a_cpu_and_said_to_be(folder: Path) -> None:
    outcome = ran(folder, sensitivity, family="cpu-avx2", sensitivity="worst", repair=("none",))
    found = found_in(outcome, "cpu-avx2")
    in_int8 = {each["node"] for each in found["layers"]}
    model = prepared(spiked())
    nodes = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    times = estimated_times_us(model, "cpu-avx2", nodes)
    assert times is not None
    in_float_ms = sum(times[node][0] for node in nodes if node not in in_int8) / 1e3
    layers_ms = in_float_ms + sum(times[node][1] for node in in_int8) / 1e3
    assert found["placed"]["time_in_float"] == {
        "basis": "estimated",
        "share": pytest.approx(in_float_ms / layers_ms),
        "float_ms": pytest.approx(in_float_ms),
        "layers_ms": pytest.approx(layers_ms),
    }
    assert 0 < in_float_ms < layers_ms  # the head stays in float
    (note,) = [each for each in outcome.document["notes"] if "of the multiply-adds in INT8; layers in float" in each]
    assert note.endswith(f"take an estimated {in_float_ms / layers_ms:.1%} of the time of all layers")


def test_the_time_that_stays_in_float_is_the_users_own_where_latencies_are_given_and_unknown_else(folder: Path) -> None:
    unknown = found_in(ran(folder, sensitivity, sensitivity="worst", repair=("none",)))
    assert unknown["placed"] == {"int8_share": unknown["int8_share"], "time_in_float": None}
    nodes = [node.name for node in spiked().graph.node if node.op_type in ("Conv", "Gemm")]
    measured = {node: {"float_ms": 1.0, "int8_ms": 0.5} for node in nodes}
    (folder / "latencies.json").write_text(json.dumps({"tensorrt": measured}))
    budget = Budget(max_drop=2, latencies=str(folder / "latencies.json"))
    found = found_in(ran(folder, budget=budget, repair=("none",), other="labelled.npz"))
    chosen = found["budget"]["trials"][found["budget"]["chosen"]]
    in_float = len(chosen["spared"]) + len(nodes) - len(found["layers"])
    placed_ms = in_float + 0.5 * (len(nodes) - in_float)
    assert SPIKED in chosen["spared"]
    assert found["placed"]["time_in_float"] == {
        "basis": "measured",
        "share": pytest.approx(in_float / placed_ms),
        "float_ms": in_float,
        "layers_ms": placed_ms,
    }
    assert found["placed"]["int8_share"] == chosen["int8_share"] < found["int8_share"]
