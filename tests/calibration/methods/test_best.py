"""The best method of each tensor, by what is computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_networks import NetworkBuilder, attention, images

from calibration import METHODS
from calibration.methods.best import best_ranges, fake_quantized
from calibration.methods.method import Range
from calibration.placement.families import FAMILY
from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.quantization import quantized
from pipeline.quantizing.settings import CalibrationData, QuantizationSettings, checked_method


def test_a_range_is_chosen_by_the_error_at_the_output_of_what_reads_the_tensor() -> None:
    # Of 16 features one is an outlier. One layer weighs it a thousand times, the other not at all.
    net = NetworkBuilder()
    for name, factor in (("heard", 1e3), ("unheard", 0.0)):
        weight = net.normal(16, 16, scale=0.3)
        weight[0] *= factor
        net.linear(net.node("Relu", net.node("MatMul", name, net.weight(weight))), 16, 4, output=f"{name}_logits")
    model = prepared(
        net.model(
            {name: ["batch", 16] for name in ("heard", "unheard")},
            {f"{name}_logits": ["batch", 4] for name in ("heard", "unheard")},
        )
    )
    values = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    values[:, 0] *= 30
    batch = Batch([str(i) for i in range(64)], {"heard": values, "unheard": values})
    sketches = collect(model, [batch], threads=1)
    found = best_ranges(model, sketches, [place(model, "tensorrt")], [batch], threads=1)
    choices = {name: ranges_from_sketches(sketches, name) for name in METHODS}
    assert found.method == "best"
    assert found.of("heard").amax == max(ranges.of("heard").amax for ranges in choices.values())
    assert found.of("unheard").amax == min(ranges.of("unheard").amax for ranges in choices.values())


def test_every_tensor_gets_the_range_of_one_of_the_methods() -> None:
    model = prepared(attention())
    batch = Batch([str(i) for i in range(16)], {"tokens": images(16, 16, 32)})
    sketches, placement = collect(model, [batch], threads=1), place(model, "tensorrt")
    found = best_ranges(model, sketches, [placement], [batch], threads=1)
    choices = [ranges_from_sketches(sketches, name) for name in METHODS]
    assert set(found.tensors) == set(sketches.tensors)
    for tensor in found.tensors:
        assert found.of(tensor) in [ranges.of(tensor) for ranges in choices]


def test_what_reads_a_float_tensor_beside_a_quantized_one_is_judged_too() -> None:
    net = NetworkBuilder()
    r = net.node("Relu", net.conv(net.node("Relu", net.conv("image", 16, 16)), 16, 16))
    net.linear(net.spatial_mean(net.conv(r, 16, 16)), 16, 4, output="logits")
    axes = net.weight(np.array([2, 3], np.int64))
    net.node("Mul", r, net.node("Erf", net.node("ReduceMean", "image", axes)), output="gated")
    outputs: dict[str, Sequence[int | str]] = {"logits": ["batch", 4], "gated": ["batch", 16, 8, 8]}
    model = prepared(net.model({"image": ["batch", 16, 8, 8]}, outputs))
    batch = Batch([str(i) for i in range(16)], {"image": images(16, 16, 8, 8)})
    sketches = collect(model, [batch], threads=1)
    found = best_ranges(model, sketches, [place(model, "cpu-vnni")], [batch], threads=1)
    assert set(found.tensors) == set(sketches.tensors)


@pytest.mark.parametrize("family", ["tensorrt", "cpu-vnni", "cpu-arm64"])
def test_the_fake_quantization_is_that_of_onnx(family: str) -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * 3
    found = fake_quantized(values, Range(-1.0, 2.5), FAMILY[family])
    assert len(np.unique(found)) <= 256
    inside = (values > -0.9) & (values < 2.4)
    assert np.abs(found - values)[inside].max() <= 2.5 / 127 / 2 + 1e-6
    assert found.max() <= 2.5 + 1e-2
    assert 0.0 in fake_quantized(np.zeros(1, np.float32), Range(0.7, 2.5), FAMILY[family])


def test_best_is_a_method_by_name(tmp_path: Path) -> None:
    model = prepared(attention())
    onnx.save(model, tmp_path / "own.onnx")
    batch = Batch([str(i) for i in range(16)], {"tokens": images(16, 16, 32)})
    settings = QuantizationSettings(checked_method("best"), ("cpu-vnni", "tensorrt"))
    data = CalibrationData(16, lambda: iter([batch]))
    result = quantized(tmp_path / "own.onnx", data, settings, QuietProgress(), Cancellation())
    result.ranges.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == result.ranges
    assert result.ranges.method == "best"
