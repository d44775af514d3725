"""Weights rounded with their layer's inputs in view: the patches, the algorithm, and what a quantized graph gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images

from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.quality import compared, session_as_written
from calibration.ranges import ranges_from_sketches
from calibration.repairs.patches import columns
from calibration.repairs.rounding import Root, Rounded, roundings_of
from calibration.statistics.collect import Batch, collect
from calibration.weights import weight_scales
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.judging.yardstick import JudgingData
from pipeline.quantizing.quantization import quantized
from pipeline.quantizing.quantized import Quantized
from pipeline.quantizing.sensitivity.budget import Budget
from pipeline.quantizing.sensitivity.mixed_precision import Judging, judged
from pipeline.quantizing.settings import CalibrationData, QuantizationSettings, checked_repair

ALL = 1 << 20
ENOUGH = 8192


def batches_for(model: ModelProto, count: int = 32, seed: int = 1) -> list[Batch]:
    source = model.graph.input[0]
    values = images(count, *[dim.dim_value for dim in source.type.tensor_type.shape.dim][1:], seed=seed)
    return [Batch([str(i) for i in range(s, s + 8)], {source.name: values[s : s + 8]}) for s in range(0, count, 8)]


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ((2, 4, 9, 7), (3, 3), {"pads": [1, 0, 1, 2]}),
        ((2, 4, 9, 8), (3, 2), {"strides": [2, 3], "dilations": [2, 1], "pads": [2, 1, 0, 1]}),
        ((2, 4, 9, 8), (3, 3), {"group": 2}),
        ((2, 4, 9, 8), (5, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((2, 4, 9, 8), (4, 3), {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
        ((2, 4, 9, 8), (3, 3), {"auto_pad": "VALID"}),
        ((3, 4, 11), (3,), {"pads": [1, 1]}),
        ((1, 4, 5, 6, 4), (3, 1, 2), {"pads": [1, 0, 0, 1, 0, 1]}),
    ],
)
def test_a_weight_times_the_columns_is_the_convolution(
    shape: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    groups = attributes.get("group", 1)
    net = NetworkBuilder()
    weight = net.normal(8, 4 // groups, *kernel)
    net.node("Conv", "x", net.weight(weight), output="y", **attributes)
    model = net.model({"x": shape}, {"y": ["n"] + ["size"] * (len(shape) - 1)})
    x = net.normal(*shape)
    (wanted,) = session_as_written(model, 1).run(["y"], {"x": x})
    found = columns(x, model.graph.node[0], kernel, ALL, np.random.default_rng(0))
    assert found.shape[:2] == (groups, weight[0].size)
    made = weight.reshape(groups, 8 // groups, -1) @ found  # (groups, channels of one, images * places)
    np.testing.assert_allclose(
        made.reshape(8, len(x), -1).swapaxes(0, 1).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4
    )


def test_of_many_columns_some_are_drawn_from_every_image() -> None:
    net = NetworkBuilder()
    net.node("Conv", "x", net.weight(net.normal(1, 1, 1, 1)), output="y")
    conv = net.model({"x": [4, 1, 9, 9]}, {"y": [4, 1, 9, 9]}).graph.node[0]
    x = np.repeat(np.arange(4, dtype=np.float32), 81).reshape(4, 1, 9, 9)
    found = columns(x, conv, (1, 1), 40, np.random.default_rng(0))
    np.testing.assert_array_equal(np.unique(found, return_counts=True)[1], [10] * 4)


def correlated(weights: int, count: int = 400) -> NDArray[np.float64]:
    draw = np.random.default_rng(5)
    return np.asarray(draw.standard_normal((weights, 4)) @ draw.standard_normal((4, count)) + 0.05, np.float64)


def nearest_levels(
    moments: NDArray[np.float64], rows: NDArray[np.float32], scales: NDArray[np.float32], limit: int
) -> NDArray[np.float64]:
    return np.asarray(Root.of(moments[None]).nearest_levels(rows[None], scales[None], limit)[0], np.float64)


def test_the_groups_of_a_convolution_are_rounded_each_for_itself() -> None:
    rows, x = NetworkBuilder().normal(6, 20), [correlated(20), correlated(20)[::-1]]
    scales = weight_scales(rows, 0, 7)
    moments = [each @ each.T for each in x]
    found = Root.of(np.stack(moments)).nearest_levels(rows.reshape(2, 3, 20), scales.reshape(2, 3), 7)
    for group, part in enumerate((slice(3), slice(3, 6))):
        np.testing.assert_array_equal(found[group], nearest_levels(moments[group], rows[part], scales[part], 7))


def test_inputs_that_have_nothing_to_do_with_one_another_leave_each_weight_to_its_nearest_integer() -> None:
    rows = NetworkBuilder().normal(6, 150)
    scales = weight_scales(rows, 0, 127)
    found = nearest_levels(np.diag(np.geomspace(1, 1e4, 150)), rows, scales, 127)
    np.testing.assert_array_equal(found, np.rint(rows / scales[:, None]))


def test_what_a_layer_computes_from_correlated_inputs_changes_less_and_stays_within_the_limit() -> None:
    rows, x = NetworkBuilder().normal(6, 150), correlated(150)
    scales = weight_scales(rows, 0, 7)
    found = nearest_levels(x @ x.T, rows, scales, 7)
    nearest = np.rint(rows / scales[:, None])
    lost = [np.square((rows - levels * scales[:, None]) @ x).sum() for levels in (found, nearest)]
    assert lost[0] < 0.1 * lost[1]
    assert np.abs(found).max() == 7
    np.testing.assert_array_equal(found, np.rint(found))


def test_inputs_that_are_always_zero_are_no_obstacle() -> None:
    rows = NetworkBuilder().normal(2, 3)
    scales = weight_scales(rows, 0, 127)
    found = nearest_levels(np.zeros((3, 3)), rows, scales, 127)
    np.testing.assert_array_equal(found, np.rint(rows / scales[:, None]))


def test_a_channel_whose_scale_has_changed_since_goes_to_the_nearest_integers() -> None:
    rounded = Rounded(np.array([[1, 2], [3, 4]], np.int8), np.array([0.5, 0.25], np.float32))
    nearest = np.array([[5, 6], [7, 8]], np.int8)
    changed = np.array([0.5, 0.3], np.float32)
    np.testing.assert_array_equal(rounded.over(nearest, changed, 0), [[1, 2], [7, 8]])
    np.testing.assert_array_equal(rounded.over(nearest, changed, 1), [[1, 6], [3, 8]])


def smooth(shared: bool = False) -> ModelProto:
    """Convolutions over neighbours that are alike; a large weight in each channel makes its grid coarse."""
    net = NetworkBuilder()
    x = net.node("AveragePool", "image", kernel_shape=[5, 5], pads=[2, 2, 2, 2])
    made: list[str] = []
    for c_in, c_out in ((3, 16), (16, 16), (16, 16)):
        weight = net.normal(c_out, c_in, 3, 3, scale=0.1)
        weight[:, 0, 1, 1] = 6.0
        made.append(made[-1] if shared and len(made) == 2 else net.weight(weight))
        x = net.node("Relu", net.node("Conv", x, made[-1], pads=[1, 1, 1, 1]))
    net.linear(net.spatial_mean(x), 16, 10, output="logits")
    return prepared(net.model({"image": ["batch", 3, 12, 12]}, {"logits": ["batch", 10]}))


def calibrated(model: ModelProto, folder: Path, *repair: str, families: tuple[str, ...] = ("tensorrt",)) -> Quantized:
    onnx.save(model, folder / "own.onnx")
    data = CalibrationData(64, lambda: iter(batches_for(model, 64)))
    settings = QuantizationSettings("mse", families, repair=checked_repair(repair))
    return quantized(folder / "own.onnx", data, settings, QuietProgress(), Cancellation())


def stored(graph: ModelProto) -> dict[str, NDArray[np.generic]]:
    return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer if t.data_type == onnx.TensorProto.INT8}


def test_rounding_is_kept_where_it_gains_in_every_family_within_its_limit(tmp_path: Path) -> None:
    model = smooth()
    families = ("tensorrt", "cpu-avx2", "tensorrt-dla")
    found = calibrated(model, tmp_path, "rounding", families=families)
    plain = calibrated(model, tmp_path, "none", families=families)
    unseen = batches_for(model, seed=3)
    for family, limit in (("tensorrt", 127), ("cpu-avx2", 64), ("tensorrt-dla", 127)):
        gain = [compared(model, each.int8[family], unseen, threads=1).sqnr_db for each in (plain, found)]
        assert gain[1] > gain[0] + 1, family
        assert np.abs(np.concatenate([v.ravel() for v in stored(found.int8[family]).values()])).max() <= limit
    assert [(trial.repair, trial.family, trial.kept) for trial in found.repairs] == [
        ("rounding", family, True) for family in families
    ]
    assert "repair rounding (cpu-avx2): output SQNR " in found.repairs[1].in_words()


def test_the_bias_is_corrected_of_the_rounded_weights(tmp_path: Path) -> None:
    found, rounded = calibrated(smooth(), tmp_path, "rounding", "bias"), calibrated(smooth(), tmp_path, "rounding")
    assert [trial.repair for trial in found.repairs] == ["rounding", "bias"]
    assert found.repairs[1].before.sqnr_db == found.repairs[0].after.sqnr_db
    before, after = stored(rounded.int8["tensorrt"]), stored(found.int8["tensorrt"])
    assert [before[name].tolist() for name in sorted(before)] == [after[name].tolist() for name in sorted(after)]


def test_a_weight_that_two_layers_share_is_rounded_for_both() -> None:
    model = smooth(shared=True)
    placement = place(model, "tensorrt")
    found = roundings_of(model, {"tensorrt": placement}, batches_for(model), 1, "max")["tensorrt"]
    assert len(placement.weights) == 3
    assert set(found) == {weight.tensor for weight in placement.weights}
    assert len(found) == 2


def test_the_products_of_a_transformer_are_rounded_too() -> None:
    model = prepared(attention())
    placement = place(model, "tensorrt")
    ranges = ranges_from_sketches(collect(model, batches_for(model), threads=1), "mse")
    found = roundings_of(model, {"tensorrt": placement}, batches_for(model), 1, "mse")["tensorrt"]
    graph = quantize(model, ranges, placement, weights="mse", roundings=found)
    kept = {array.tobytes() for array in stored(graph).values()}
    assert {each.levels.tobytes() for each in found.values()} <= kept
    assert set(found) == {weight.tensor for weight in placement.weights}


def test_layers_that_a_budget_leaves_in_int8_keep_their_rounding(tmp_path: Path) -> None:
    model = smooth()
    found = calibrated(model, tmp_path, "rounding")
    whole = found.repairs[0].after.sqnr_db
    data = JudgingData(32, lambda: iter(batches_for(model)), None, "samples", "0")
    budget = Budget.model_validate({"min_sqnr_db": whole + 3})
    judging = Judging(data, None, "local", budget, tmp_path / "evaluations.json", 1)
    spared, _ = judged(found, judging, QuietProgress(), Cancellation())
    before, after = stored(found.int8["tensorrt"]), stored(spared.int8["tensorrt"])
    assert 0 < len(spared.placements["tensorrt"].weights) < len(found.placements["tensorrt"].weights)
    assert {array.tobytes() for array in after.values()} <= {array.tobytes() for array in before.values()}
