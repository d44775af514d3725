"""Networks of several dynamic axes, inputs and outputs, built for real from calibrated graphs, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from dynamic_networks import IMAGES, ROWS, SEQUENTIAL, SPATIAL, EncoderDecoder, Transformer
from tensorrt_graphs import PLAIN, RTX, TARGET, needs_tensorrt_rtx, weights, written
from torch import nn

from calibration.statistics.collect import Batch
from engines import ENGINES
from engines.audit import summarize
from engines.base import AxisProfile, BuiltEngine, Target
from engines.errors import BuildFailed
from engines.feeds import random_feeds
from pipeline.exporting.exporter import exported
from pipeline.exporting.parity_check import random_inputs
from pipeline.files.onnx_file import write_graph
from pipeline.models.interface import Interface
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.quantizing.quantization import quantized
from pipeline.quantizing.settings import CalibrationData, QuantizationSettings

SIZES = AxisProfile(16, 32, 64)
FAMILIES = ("cpu", "tensorrt-rtx")
SAMPLES = 16


@dataclass(frozen=True)
class Graphs:
    """One network in each precision and for each family, in a folder."""

    folder: Path
    axes: Mapping[str, AxisProfile]

    def file(self, precision: str, family: str) -> Path:
        return self.folder / (f"{family}.int8.onnx" if precision == "int8" else f"{precision}.onnx")

    def built(self, runtime: str, precision: str) -> BuiltEngine:
        engine = ENGINES[runtime]
        target = Target("edge", runtime, (precision,), axes=self.axes if engine.for_gpu else {})
        to = self.folder / f"{runtime}.{precision}{engine.suffix}"
        return engine.build(self.file(precision, engine.family), precision, target, to)


def graphs(
    folder: Path, network: nn.Module, interface: Interface, dynamic: tuple[str, ...], axes: Mapping[str, AxisProfile]
) -> Graphs:
    """Exported and calibrated on random inputs."""
    onnx.save(exported(network, interface, tuple(interface.outputs), 18, dynamic), folder / "fp32.onnx")
    zeros = {name: each.numpy() for name, each in zip(interface.input_names, interface.zeros(SAMPLES), strict=True)}

    def batches() -> Iterator[Batch]:
        inputs = random_inputs(interface, zeros, np.random.default_rng(0))
        yield Batch([str(index) for index in range(SAMPLES)], inputs)

    data, settings = CalibrationData(SAMPLES, batches), QuantizationSettings("minmax", FAMILIES)
    found = quantized(folder / "fp32.onnx", data, settings, QuietProgress(), Cancellation())
    assert found.float16.model is not None
    for name, model in {"fp16": found.float16.model, **{f"{name}.int8": found.int8[name] for name in FAMILIES}}.items():
        write_graph(folder / f"{name}.onnx", model)
    return Graphs(folder, axes)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """An encoder-decoder of open height and width."""
    folder = tmp_path_factory.mktemp("dense")
    return graphs(folder, EncoderDecoder(), IMAGES, SPATIAL, {"height": SIZES, "width": SIZES})


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """A transformer of two inputs and two outputs, of open length."""
    folder = tmp_path_factory.mktemp("sequential")
    return graphs(folder, Transformer(), ROWS, SEQUENTIAL, {"length": AxisProfile(4, 24, 64)})


@needs_tensorrt_rtx
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("fp16", "float16"), ("int8", "int8")])
def test_an_encoder_decoder_of_open_height_and_width_is_built_in_each_precision(
    dense: Graphs, precision: str, dtype: str
) -> None:
    built = dense.built("tensorrt-rtx", precision)
    wanted = {"min": 16, "opt": 32, "max": 64}
    assert built.settings["profiles"] == (
        {"batch": {"min": 1, "opt": 8, "max": 64}, "height": wanted, "width": wanted},
    )
    audit = summarize(built.layers)
    # The head stays in float in the INT8 graph.
    assert (audit.products, getattr(audit, dtype)) == (6, 5 if dtype == "int8" else 6)
    assert len(audit.float_products) == (1 if dtype == "int8" else 6)


@needs_tensorrt_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_transformer_of_two_inputs_and_open_length_is_built_in_each_precision(
    sequential: Graphs, precision: str
) -> None:
    built = sequential.built("tensorrt-rtx", precision)
    assert built.settings["profiles"][0]["length"] == {"min": 4, "opt": 24, "max": 64}
    audit = summarize(built.layers)
    if precision == "int8":
        # The embedding of 8 features is too small for INT8, and the head is one; attention runs in INT8 with its mask.
        assert audit.products - audit.int8 == len(audit.float_products) == 2
        assert "attention" in {layer.kind for layer in built.layers}
    else:
        assert (audit.int8, audit.products) == (0, audit.float16 if precision == "fp16" else audit.float32)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 64), (48, 20)])
def test_onnxruntime_runs_the_encoder_decoder_at_other_sizes(
    dense: Graphs, precision: str, height: int, width: int
) -> None:
    built = dense.built("onnxruntime", precision)
    with ENGINES["onnxruntime"].open(built.file, built.sha256, Target("cpu", "onnxruntime")) as session:
        found = session.run(random_feeds(session.inputs, 3, 0, {"input": (3, height, width)}))
    assert found["logits"].shape == (3, 5, height, width)
    assert summarize(built.layers).int8 == (5 if precision == "int8" else 0)


@pytest.mark.parametrize("length", [24, 4, 64])
def test_onnxruntime_runs_the_transformer_in_int8_close_to_fp32_at_other_lengths(
    sequential: Graphs, length: int
) -> None:
    outputs = []
    for precision in ("fp32", "int8"):
        built = sequential.built("onnxruntime", precision)
        with ENGINES["onnxruntime"].open(built.file, built.sha256, Target("cpu", "onnxruntime")) as session:
            assert [info.name for info in session.outputs] == ["logits", "tokens"]
            outputs.append(session.run(random_feeds(session.inputs, 3, 0, {"rows": (length, 8), "mask": (length,)})))
    for name, shape in {"logits": (3, 6), "tokens": (3, length, 32)}.items():
        expected, found = (np.asarray(output[name], np.float64) for output in outputs)
        assert expected.shape == shape
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


UNEQUAL = r"node_add_\d+: dimensions not compatible for elementwise\. Condition '==' violated: \d+ != \d+"


@needs_tensorrt_rtx
@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (
            AxisProfile(18, 32, 64),
            rf"the network does not run at the min sizes of the target \({UNEQUAL}\); choose others",
        ),
        (
            AxisProfile(16, 32, 70),
            rf"the network does not run at the max sizes of the target \({UNEQUAL}\); choose others",
        ),
        (AxisProfile(16, 30, 64), rf"shape constraints: {UNEQUAL}\); choose other opt sizes for the batch and axes of"),
    ],
)
def test_sizes_at_which_the_network_cannot_run_are_refused_though_tensorrt_builds_for_some(
    dense: Graphs, sizes: AxisProfile, said: str
) -> None:
    with pytest.raises(BuildFailed, match=rf"fp32\.onnx: .*{said}") as caught:
        replace(dense, axes={"height": sizes, "width": SIZES}).built("tensorrt-rtx", "fp32")
    assert "/_src/" not in str(caught.value)
    assert not (dense.folder / "tensorrt-rtx.fp32.plan").exists()


def refused(folder: Path, x: str, axes: Mapping[str, AxisProfile]) -> str:
    graph, target = written(folder, PLAIN, weights(), x=x), replace(TARGET, axes=axes)
    with pytest.raises(BuildFailed) as caught:
        RTX.build(graph, "fp32", target, folder / "refused.plan")
    return str(caught.value).removeprefix(f"{graph}: ")


@needs_tensorrt_rtx
def test_a_dynamic_axis_whose_sizes_the_target_does_not_say_is_refused_with_what_to_write(tmp_path: Path) -> None:
    assert refused(tmp_path, "N,16,height,width", {"width": SIZES}) == (
        "axis 'height' is dynamic and target 'rtx' does not say its sizes; add height = { min = …, opt = …, max = … } "
        "to the target's axes, or fix it when exporting"
    )


@needs_tensorrt_rtx
@pytest.mark.parametrize(
    ("x", "there"),
    [
        ("N,16,height,8", "its dynamic axes are batch, height"),
        ("N,16,8,8", "its dynamic axes are batch"),
        ("2,16,8,8", "it has no dynamic axis"),
    ],
)
def test_sizes_of_an_axis_that_is_not_dynamic_are_refused_with_those_that_are(
    tmp_path: Path, x: str, there: str
) -> None:
    axes = {"height": SIZES} if "height" in x else {}
    said = refused(tmp_path, x, {**axes, "length": SIZES})
    assert said == f"target 'rtx' has sizes for axis 'length', and {there}; take it out"


@needs_tensorrt_rtx
def test_a_dynamic_dimension_without_a_name_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "N,16,?,8", {}) == (
        "input 'x' has shape [-1, 16, -1, 8]: its dynamic dimension 2 has no name, so no target can say its sizes; "
        "name it when exporting, or fix it"
    )


@needs_tensorrt_rtx
@pytest.mark.parametrize("sizes", [AxisProfile(0, 8, 8), AxisProfile(8, 4, 16), AxisProfile(8, 16, 8)])
def test_sizes_that_do_not_rise_are_refused_with_the_name_of_their_axis(tmp_path: Path, sizes: AxisProfile) -> None:
    said = refused(tmp_path, "N,16,height,8", {"height": sizes})
    assert said.startswith("the sizes {")
    assert said.endswith("} of axis 'height' must be at least 1 and rise from min to max")


@needs_tensorrt_rtx
def test_a_first_dimension_that_the_target_names_is_no_batch(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights(), x="frames,16,8,8")
    built = RTX.build(graph, "fp32", replace(TARGET, axes={"frames": SIZES}), tmp_path / "e.plan")
    assert built.settings["profiles"] == ({"frames": {"min": 16, "opt": 32, "max": 64}},)
