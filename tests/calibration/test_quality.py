"""How near a quantized graph is to the float one, computed as the graph is written."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import ModelProto
from onnx_networks import images, residual

from calibration.errors import CalibrationError, GraphRefused
from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.quality import Comparison, FloatReference, class_axis, compared, sqnr_db
from calibration.ranges import ranges_from_sketches
from calibration.statistics.collect import Batch, collect


def batches(count: int = 24, size: int = 8) -> list[Batch]:
    values = images(count, 1, 8, 8)
    return [Batch([str(i) for i in range(s, s + size)], {"image": values[s : s + size]}) for s in range(0, count, size)]


def graphs(family: str) -> tuple[ModelProto, ModelProto]:
    model = prepared(residual())
    ranges = ranges_from_sketches(collect(model, batches(), threads=1), "minmax")
    return model, quantize(model, ranges, place(model, family))


def test_sqnr_is_that_of_the_definition_over_all_batches() -> None:
    random = np.random.default_rng(0)
    wanted, noise = random.normal(size=(6, 5)) * 3, random.normal(size=(6, 5))
    comparison = Comparison()
    for start in (0, 2, 4):
        rows = slice(start, start + 2)
        comparison.add({"y": wanted[rows]}, {"y": wanted[rows] + noise[rows]}, 2)
    expected = 10 * math.log10(float((wanted**2).sum() / (noise**2).sum()))
    assert comparison.quality().sqnr_db == pytest.approx(expected, rel=1e-12)
    assert sqnr_db(wanted, wanted + noise) == pytest.approx(expected, rel=1e-12)


def test_equal_answers_have_no_noise_and_answers_to_nothing_no_signal() -> None:
    assert sqnr_db(np.ones(3), np.ones(3)) == math.inf
    assert sqnr_db(np.zeros(3), np.ones(3)) == -math.inf
    assert sqnr_db(np.ones(3), np.array([1, np.nan, 1])) == -math.inf


def test_agreement_counts_rows_with_the_same_largest_class() -> None:
    comparison = Comparison()
    comparison.add({"y": np.eye(4)}, {"y": np.eye(4)[[0, 1, 2, 2]]}, 4)
    assert comparison.quality().agreement == 0.75


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 10), 1), ((4, 1), None), ((4,), None), ((4, 7, 3), 2), ((4, 3, 8, 8), 1)]
)
def test_classes_stand_where_the_field_puts_them(shape: tuple[int, ...], axis: int | None) -> None:
    assert class_axis(np.zeros(shape)) == axis


def test_the_worst_output_speaks_for_a_graph_of_several() -> None:
    comparison = Comparison()
    wanted = {"good": np.ones((2, 3)), "bad": np.ones((2, 1))}
    comparison.add(wanted, {"good": np.full((2, 3), 1.001), "bad": np.full((2, 1), 1.1)}, 2)
    quality = comparison.quality()
    assert quality.sqnr_db == quality.outputs["bad"].sqnr_db == pytest.approx(20.0)
    assert quality.agreement == quality.outputs["good"].agreement == 1.0


@pytest.mark.parametrize("family", ["cpu-vnni", "tensorrt"])
def test_a_graph_is_judged_as_it_is_written_whatever_the_cpu(family: str) -> None:
    model, found = graphs(family)
    quality = compared(model, found, batches(), threads=1)
    assert quality == FloatReference(model, batches(), threads=1).quality_of(found)
    assert quality.images == 24
    assert quality.sqnr_db > 30  # kernels of a CPU without VNNI saturate, and give cpu-vnni 23
    assert compared(model, model, batches(), threads=1).sqnr_db == math.inf


def test_what_cannot_be_compared_is_refused() -> None:
    model, _ = graphs("tensorrt")
    with pytest.raises(CalibrationError, match="no image to compare the graphs on"):
        compared(model, model, [], threads=1)
    comparison = Comparison()
    with pytest.raises(CalibrationError, match=r"output 'y' is \(2, 2\), and \(2, 3\) in the float graph"):
        comparison.add({"y": np.ones((2, 3))}, {"y": np.ones((2, 2))}, 2)
    with pytest.raises(CalibrationError, match=r"output 'y' is missing, and \(2, 3\)"):
        comparison.add({"y": np.ones((2, 3))}, {}, 2)
    broken = ModelProto.FromString(model.SerializeToString())
    broken.graph.node[0].op_type = "Unheard"
    with pytest.raises(GraphRefused, match="onnxruntime cannot load the graph to compare it"):
        compared(broken, model, batches(), threads=1)
