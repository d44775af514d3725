"""Equalization and bias correction: the same function, the published formulas, and kept only where they gain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images, residual

from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.quality import compared, session_as_written
from calibration.ranges import ranges_from_sketches
from calibration.repairs.bias_correction import bias_corrected
from calibration.repairs.channel_weights import scales_of
from calibration.repairs.equalization import channel_amax, equalized, is_equalizable, pairs_of
from calibration.repairs.rounding import roundings_of
from calibration.segments import SegmentedRun
from calibration.statistics.collect import Batch, collect
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.quantization import quantized
from pipeline.quantizing.quantized import Quantized, placement_document
from pipeline.quantizing.repairing.repair import LEAST_SAMPLES, _halves
from pipeline.quantizing.settings import (
    CalibrationData,
    QuantizationSettings,
    check_repair_beside_caches,
    checked_repair,
)


def batches_for(model: ModelProto, count: int = 32, size: int = 8, seed: int = 1) -> list[Batch]:
    source = model.graph.input[0]
    values = images(count, *[d.dim_value for d in source.type.tensor_type.shape.dim][1:], seed=seed)
    starts = range(0, count, size)
    return [Batch([str(i) for i in range(s, s + size)], {source.name: values[s : s + size]}) for s in starts]


def unbalanced(activation: str = "Relu") -> ModelProto:
    """Inverted residuals whose channels differ by a factor of a hundred, with a depthwise convolution between."""
    net = NetworkBuilder()
    spread = np.geomspace(0.1, 10, 32).astype(np.float32)

    def conv(x: str, weight: NDArray[np.float32], bias: NDArray[np.float32], group: int = 1) -> str:
        kernel = weight.shape[2]
        inputs = (x, net.weight(weight), net.weight(bias))
        return net.node("Conv", *inputs, pads=[kernel // 2] * 4, group=group)

    def act(x: str) -> str:
        if activation == "PRelu":
            return net.node("PRelu", x, net.weight(np.full((32, 1, 1), 0.2, np.float32)))
        return net.node(activation, x)

    x = net.node("Relu", net.conv("image", 3, 8))
    up = net.normal(32, 8, 1, 1, scale=0.4) * spread[:, None, None, None]
    x = act(conv(x, up, net.normal(32, scale=0.1) * spread))
    x = act(conv(x, net.normal(32, 1, 3, 3, scale=0.3), net.normal(32, scale=0.1) * spread, group=32))
    down = net.normal(16, 32, 1, 1, scale=0.3) / spread[None, :, None, None]
    x = net.node("Relu", conv(x, down, net.normal(16, scale=0.1)))
    net.linear(net.spatial_mean(x), 16, 10, output="logits")
    return prepared(net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 10]}))


def shifted() -> ModelProto:
    """A network whose weights round to something else on average: a large one makes the grid of its channel coarse."""
    net = NetworkBuilder()
    x = "image"
    for c_in, c_out in ((3, 16), (16, 16), (16, 16)):
        weight = net.normal(c_out, c_in, 3, 3, scale=0.1)
        weight[:, 0, 1, 1] = 8.0
        x = net.node("Relu", net.node("Conv", x, net.weight(weight), pads=[1, 1, 1, 1]))
    net.linear(net.spatial_mean(x), 16, 10, output="logits")
    return prepared(net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 10]}))


def int8_of(model: ModelProto, family: str) -> ModelProto:
    ranges = ranges_from_sketches(collect(model, batches_for(model), threads=1), "minmax")
    return quantize(model, ranges, place(model, family))


def sqnr(model: ModelProto, family: str) -> float:
    return compared(model, int8_of(model, family), batches_for(model, seed=2), threads=1).sqnr_db


def calibrated(model: ModelProto, folder: Path, *repair: str, families: tuple[str, ...] = ("tensorrt",)) -> Quantized:
    onnx.save(model, folder / "own.onnx")
    data = CalibrationData(64, lambda: iter(batches_for(model, 64, 32)))
    settings = QuantizationSettings("minmax", families, repair=checked_repair(repair))
    return quantized(folder / "own.onnx", data, settings, QuietProgress(), Cancellation())


@pytest.mark.parametrize("build", [unbalanced, lambda: unbalanced("LeakyRelu"), lambda: unbalanced("PRelu")])
def test_equalization_leaves_the_function_as_it_is_and_quantizes_better(build: Callable[[], ModelProto]) -> None:
    model = build()
    found = equalized(model, batches_for(model), threads=1)
    assert len(pairs_of(model)) == 3
    assert compared(model, found, batches_for(model, seed=2), threads=1).sqnr_db > 100
    assert sqnr(found, "tensorrt") > sqnr(model, "tensorrt") + 3


def test_the_scales_are_those_of_the_formula_over_their_geometric_mean() -> None:
    amax, reach = np.array([1.0, 4.0, 16.0, 0.0]), np.array([1.0, 1.0, 0.25, 1.0])
    middle = 16 ** (1 / 3)
    np.testing.assert_allclose(scales_of(amax, reach, 0.5), [1 / middle, 2 / middle, 8 / middle, 1])
    np.testing.assert_array_equal(scales_of(np.zeros(2), np.ones(2), 0.5), [1, 1])
    np.testing.assert_allclose(scales_of(amax[:3], np.ones(3), 1.0), [0.25, 1, 4])


def test_equalized_channels_reach_as_far_as_the_weights_that_read_them() -> None:
    model = unbalanced()
    before, after = (
        channel_amax(each, pairs_of(each), batches_for(model), threads=1)
        for each in (model, equalized(model, batches_for(model), threads=1))
    )
    for pair in pairs_of(model)[1:]:
        assert np.ptp(np.log(after[pair])) < 0.8 * np.ptp(np.log(before[pair]))


def test_a_layer_norm_before_products_is_equalized_and_what_is_not_scale_equivariant_is_left() -> None:
    model = prepared(attention())
    found = equalized(model, batches_for(model), threads=1)
    assert [len(pair.second) for pair in pairs_of(model)] == [3, 1]  # query, key and value; the feed-forward layer
    assert compared(model, found, batches_for(model, seed=2), threads=1).sqnr_db > 100
    assert not [pair for pair in pairs_of(unbalanced("HardSwish")) if pair.tensor.startswith("hardswish")]


def mobile(activation: str, spread: float = 100.0) -> ModelProto:
    """A depthwise convolution behind an activation that no scale passes, beside a skip."""
    net = NetworkBuilder()
    weight = net.normal(16, 3, 1, 1) * np.geomspace(1 / spread, 1, 16).astype(np.float32)[:, None, None, None]
    x = net.node(activation, net.node("Conv", "image", net.weight(weight)))
    deep = net.normal(16, 1, 3, 3) * np.geomspace(spread, 1, 16).astype(np.float32)[:, None, None, None]
    deep_out = net.node("Conv", x, net.weight(deep), group=16, pads=[1, 1, 1, 1])
    net.conv(net.node("Relu", net.node("Add", deep_out, x)), 16, 8, kernel=1, output="features")
    return prepared(net.model({"image": ["batch", 3, 8, 8]}, {"features": ["batch", 8, 8, 8]}))


def test_what_a_depthwise_convolution_reads_behind_another_activation_gets_a_scale_for_each_channel() -> None:
    model = mobile("HardSwish")
    assert pairs_of(model) == ()
    found = equalized(model, batches_for(model), threads=1)
    assert compared(model, found, batches_for(model, seed=2), threads=1).sqnr_db > 100
    (scaling,) = [node for node in found.graph.node if node.op_type == "Mul"]
    (reader,) = [node for node in found.graph.node if scaling.output[0] in node.input]
    assert reader.op_type == "Conv"
    (pair,) = pairs_of(found)
    amax = channel_amax(found, [pair], batches_for(model), threads=1)[pair]
    np.testing.assert_allclose(amax, amax[0], rtol=1e-4)  # nothing is left to balance
    assert sqnr(found, "tensorrt") > sqnr(model, "tensorrt") + 3


def test_a_convolution_that_is_not_depthwise_or_shares_its_weight_gains_no_scale() -> None:
    net = NetworkBuilder()
    shared = net.weight(net.normal(4, 1, 3, 3))
    x = net.node("HardSwish", net.conv("image", 4, 4))
    for group, weight in ((4, shared), (4, shared), (2, net.weight(net.normal(4, 2, 3, 3)))):
        x = net.node("HardSwish", net.node("Conv", x, weight, group=group, pads=[1, 1, 1, 1]))
    net.conv(x, 4, 2, output="features")
    model = prepared(net.model({"image": ["batch", 4, 8, 8]}, {"features": ["batch", 2, 8, 8]}))
    assert not is_equalizable(model)
    assert is_equalizable(mobile("HardSwish"))


def test_a_weight_that_two_layers_share_is_not_scaled() -> None:
    net = NetworkBuilder()
    weight = net.weight(net.normal(4, 4, 3, 3, scale=0.2))
    x = net.conv("image", 1, 4)
    for _ in range(2):
        x = net.node("Relu", net.node("Conv", x, weight, pads=[1, 1, 1, 1]))
    net.conv(x, 4, 2, output="features")
    assert pairs_of(prepared(net.model({"image": ["batch", 1, 8, 8]}, {"features": ["batch", 2, 8, 8]}))) == ()


def test_a_graph_in_segments_gives_what_it_gives_in_one_run() -> None:
    model = prepared(residual())
    whole = session_as_written(model, 1)
    run = SegmentedRun(model, [node.name for node in model.graph.node if node.op_type == "Conv"], batches_for(model), 1)
    assert [node.op_type for node in run.stops()] == ["Conv"] * 9
    for tensors, batch in zip(run.live, batches_for(model), strict=True):
        assert set(tensors) == {"logits"}
        np.testing.assert_allclose(tensors["logits"], whole.run(["logits"], dict(batch.feeds))[0], rtol=1e-4, atol=1e-5)


def output_means(model: ModelProto, batches: list[Batch], tensor: str) -> NDArray[np.float64]:
    extended = ModelProto.FromString(model.SerializeToString())
    extended.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    session = session_as_written(extended, 1)
    values = np.concatenate([session.run([tensor], dict(batch.feeds))[0] for batch in batches])
    return np.asarray(values.mean(axis=(0, 2, 3), dtype=np.float64), np.float64)


@pytest.mark.parametrize("family", ["tensorrt", "cpu-avx2"])
def test_after_the_correction_each_channel_has_the_mean_of_the_float_graph(family: str) -> None:
    model = shifted()
    batches = batches_for(model)
    ranges = ranges_from_sketches(collect(model, batches, threads=1), "minmax")
    placement = place(model, family)
    before = quantize(model, ranges, placement)
    nodes = [weight.node for weight in placement.weights]
    corrected = bias_corrected(model, before, nodes, batches, threads=1)
    after = quantize(corrected, ranges, place(corrected, family))
    for node in (node for node in model.graph.node if node.name in nodes):
        wanted = output_means(model, batches, node.output[0])
        shifts = [np.abs(output_means(each, batches, node.output[0]) - wanted).max() for each in (before, after)]
        assert shifts[1] < 0.02 * np.abs(wanted).max()
        assert shifts[1] < 0.5 * shifts[0]
    unseen = batches_for(model, seed=2)
    quality = [compared(model, each, unseen, threads=1).sqnr_db for each in (before, after)]
    assert quality[1] > quality[0] + 1


def test_the_bias_of_a_product_is_that_of_the_add_behind_it() -> None:
    model = prepared(attention())
    found = int8_of(model, "tensorrt")
    nodes = [weight.node for weight in place(model, "tensorrt").weights]
    corrected = bias_corrected(model, found, nodes, batches_for(model), threads=1)
    new = {tensor.name for tensor in corrected.graph.initializer} - {t.name for t in model.graph.initializer}
    assert len(new) == 1
    (reader,) = [node for node in corrected.graph.node if new & set(node.input)]
    assert reader.op_type == "Add"
    assert len(corrected.graph.initializer) == len(model.graph.initializer)


def test_a_repair_is_kept_where_it_gains_and_says_how_much(tmp_path: Path) -> None:
    found = calibrated(unbalanced(), tmp_path, "auto", families=("tensorrt", "cpu-vnni"))
    kept = {(trial.repair, trial.family): trial.kept for trial in found.repairs}
    assert kept["equalize", "tensorrt"]
    assert kept["equalize", "cpu-vnni"]
    trial = found.repairs[0]
    assert trial.after.sqnr_db > trial.before.sqnr_db + 3
    assert trial.in_words() in list(found.notes())
    assert "repair equalize (tensorrt): output SQNR " in trial.in_words()
    assert trial.in_words().endswith(" on 32 samples: kept")
    assert placement_document(found)["repairs"][0]["sqnr_db"]["after"] == trial.after.sqnr_db
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.measured.graph.initializer}
    assert any((weights[t.name] != numpy_helper.to_array(t)).any() for t in unbalanced().graph.initializer)


def test_ranges_reach_to_the_extremes_where_what_is_cut_off_decides_the_answer(tmp_path: Path) -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 3, 16))
    x = net.node("Relu", net.conv(x, 16, 16))
    net.linear(net.node("Flatten", net.node("GlobalMaxPool", x)), 16, 10, output="logits")
    model = prepared(net.model({"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 10]}))
    onnx.save(model, tmp_path / "own.onnx")

    def found(method: str, *repair: str) -> Quantized:
        data = CalibrationData(64, lambda: iter(batches_for(model, 64, 32)))
        wanted = QuantizationSettings(method, ("tensorrt", "cpu-vnni"), repair=checked_repair(repair))
        return quantized(tmp_path / "own.onnx", data, wanted, QuietProgress(), Cancellation())

    wide, clipped, minmax = found("percentile:98", "widen"), found("percentile:98", "none"), found("minmax", "widen")
    assert [(trial.repair, trial.family, trial.kept) for trial in wide.repairs] == [
        ("widen", "tensorrt", True),
        ("widen", "cpu-vnni", True),
    ]
    assert wide.ranges == minmax.ranges
    assert wide.int8 == minmax.int8
    assert minmax.repairs == ()
    entropy = found("entropy", "widen")
    assert (entropy.ranges.method, entropy.repairs) == ("entropy", ())
    said = "repair widen: not tried, because it is for percentiles, and 'entropy' was asked for"
    assert said in list(entropy.notes())
    unseen = batches_for(model, seed=3)
    before, after = (compared(model, each.int8["tensorrt"], unseen, threads=1).sqnr_db for each in (clipped, wide))
    assert after > before + 3
    assert wide.repairs[0].in_words().startswith("repair widen (tensorrt): output SQNR ")


def test_ranges_that_are_finer_for_what_they_cut_off_stay(tmp_path: Path) -> None:
    model = prepared(shifted())
    onnx.save(model, tmp_path / "own.onnx")
    batches = batches_for(model, 64, 32)
    batches[0].feeds["image"][0, 0, 0, 0] = 1000.0  # one value of 12,288
    wanted = QuantizationSettings("percentile:99.9", ("tensorrt",), repair=checked_repair("widen"))
    found = quantized(
        tmp_path / "own.onnx", CalibrationData(64, lambda: iter(batches)), wanted, QuietProgress(), Cancellation()
    )
    assert [(trial.repair, trial.kept) for trial in found.repairs] == [("widen", False)]
    assert found.ranges.method == "percentile:99.9"


def test_what_is_kept_of_roundings_and_biases_is_made_again_from_all_samples(tmp_path: Path) -> None:
    model = prepared(shifted())
    found = calibrated(model, tmp_path, "rounding", "bias")
    assert {trial.repair: trial.kept for trial in found.repairs} == {"rounding": True, "bias": True}
    placement, batches = found.placements["tensorrt"], batches_for(model, 64, 32)
    placed = {"tensorrt": placement}
    of_all, of_half = (
        roundings_of(model, placed, each, 1, found.weights)["tensorrt"] for each in (batches, batches[:1])
    )
    assert set(found.roundings["tensorrt"]) == set(of_all)
    assert all((each.levels == of_all[name].levels).all() for name, each in found.roundings["tensorrt"].items())
    assert any((of_half[name].levels != each.levels).any() for name, each in of_all.items())
    rounded = quantize(model, found.ranges, placement, weights=found.weights, roundings=of_all)
    corrected = bias_corrected(model, rounded, [weight.node for weight in placement.weights], batches, threads=1)
    expected = quantize(corrected, found.ranges, place(corrected, "tensorrt"), weights=found.weights, roundings=of_all)
    assert found.int8["tensorrt"] == expected


def test_a_repair_that_brings_nothing_is_left_out_and_the_graph_is_the_one_without_it(tmp_path: Path) -> None:
    # Power-of-two weights and scales: nothing is rounded, so nothing can be repaired.
    net = NetworkBuilder()
    x = net.node("Relu", net.node("Conv", "image", net.weight(np.eye(4, dtype=np.float32)[:, :, None, None])))
    net.node("Conv", x, net.weight(np.eye(4, dtype=np.float32)[:, :, None, None]), output="copy")
    model = prepared(net.model({"image": ["batch", 4, 8, 8]}, {"copy": ["batch", 4, 8, 8]}))
    repaired, plain = calibrated(model, tmp_path, "auto"), calibrated(model, tmp_path, "none")
    assert [trial.kept for trial in repaired.repairs] == [False] * len(repaired.repairs)
    assert repaired.repairs[-1].in_words().endswith(": left out")
    assert plain.repairs == ()
    assert repaired.int8["tensorrt"] == plain.int8["tensorrt"]


@pytest.mark.parametrize("sizes", [(32, 32), (16,) * 4, (10,) * 6 + (4,), (32, 16), (1,) * 64])
def test_whole_batches_make_and_judge_a_repair_where_either_half_has_enough(sizes: tuple[int, ...]) -> None:
    batches = [Batch([f"{at}.{i}" for i in range(size)], {}) for at, size in enumerate(sizes)]
    middle = len(batches) // 2
    assert _halves(batches, 1) == (batches[:middle], batches[middle:])


@pytest.mark.parametrize(
    ("sizes", "images_a_run", "first"),
    [((2,), 1, 1), ((3,), 1, 1), ((31,), 1, 15), ((32,), 1, 16), ((100,), 1, 50), ((32, 1), 1, 16), ((40,), 8, 16)],
)
def test_of_a_single_batch_no_sample_makes_and_judges_a_repair(
    sizes: tuple[int, ...], images_a_run: int, first: int
) -> None:
    names = [str(i) for i in range(sum(sizes))]
    values = np.arange(len(names), dtype=np.float32)
    starts = np.cumsum((0, *sizes[:-1]))
    batches = [
        Batch(names[at : at + size], {"x": values[at : at + size]}) for at, size in zip(starts, sizes, strict=True)
    ]
    made, judged = _halves(batches, images_a_run)
    assert [name for batch in made for name in batch.ids] == names[:first]
    assert [name for batch in judged for name in batch.ids] == names[first:]
    assert np.concatenate([batch.feeds["x"] for batch in judged]).tolist() == values[first:].tolist()


def of_samples(model: ModelProto, folder: Path, samples: int, *repair: str, images_a_run: int = 1) -> Quantized:
    onnx.save(model, folder / "own.onnx")
    data = CalibrationData(
        samples, lambda: iter(batches_for(model, samples, min(samples, 32))), images_a_run=images_a_run
    )
    settings = QuantizationSettings("minmax", ("tensorrt",), repair=checked_repair(repair))
    return quantized(folder / "own.onnx", data, settings, QuietProgress(), Cancellation())


def test_of_32_samples_in_one_batch_16_judge_the_repair_that_the_others_made(tmp_path: Path) -> None:
    (trial,) = of_samples(prepared(shifted()), tmp_path, 32, "bias").repairs
    assert trial.in_words().endswith(" on 16 samples: kept")


def test_with_too_few_samples_to_judge_a_repair_none_is_tried_which_is_said(tmp_path: Path) -> None:
    model, least = prepared(shifted()), 2 * LEAST_SAMPLES
    assert {trial.before.images for trial in of_samples(model, tmp_path, least, "bias").repairs} == {LEAST_SAMPLES}
    few, plain = (of_samples(model, tmp_path, 4, repair) for repair in ("auto", "none"))
    assert (few.repairs, few.int8) == ((), plain.int8)
    assert few.untried_repairs == (
        "repairs equalize, shift, widen, rounding, bias: not tried, because one half of the samples makes a repair and "
        "the other judges it, and halves of 4 samples are too few to tell a gain from chance; give at least 16",
    )
    assert few.untried_repairs[0] in list(few.notes())
    assert plain.untried_repairs == ()
    (said,) = of_samples(model, tmp_path, 32, "bias", images_a_run=32).untried_repairs
    assert said == (
        "repair bias: not tried, because one half of the samples makes a repair and the other judges it, and halves of "
        "32 samples, 32 of which the graph takes at once, are too few to tell a gain from chance; give at least 64"
    )


def test_repairs_are_chosen_by_name() -> None:
    every = ("equalize", "shift", "widen", "rounding", "bias")
    assert checked_repair("auto") == checked_repair(["bias", "rounding", "widen", "shift", "equalize"]) == every
    assert checked_repair("none") == checked_repair([]) == ()
    with pytest.raises(ValueError, match="repair 'bia' is unknown; did you mean 'bias'"):
        checked_repair(["bia"])
    with pytest.raises(ValueError, match="repair must be a name or an array of names, found 3"):
        checked_repair(3)
    for repair in ("equalize", "shift"):
        with pytest.raises(ValueError, match=f"'{repair}' changes the weights, and a calibration cache is used beside"):
            check_repair_beside_caches((repair, "bias"), ("10.3.0",))
