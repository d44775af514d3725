"""The linter: each finding beside what TensorRT-RTX builds, or onnxruntime optimizes, of the same graph."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx_networks import NetworkBuilder, attention, images, residual
from own_graph import shown
from tensorrt_graphs import RTX, TARGET, needs_tensorrt_rtx
from tiny_run import run_edgestill

from calibration import FAMILIES
from calibration.errors import CalibrationError, GraphRefused
from calibration.lint import LINT_RULES, lint
from calibration.placement.place import place
from calibration.prepare import prepared
from calibration.qdq import quantize
from calibration.ranges import ranges_from_sketches
from calibration.statistics.collect import Batch, collect
from engines.audit import Audit, summarize
from engines.errors import BuildFailed
from pipeline.commands.lint import LintRequest
from pipeline.commands.lint import lint as lint_command
from pipeline.errors import NotAcceptable

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((16, 16, 3, 3)).astype(np.float32)
CONSTANTS: Mapping[str, NDArray[Any]] = {
    "w": WEIGHT,
    "integers": np.full((16, 16, 3, 3), 100, np.int8),
    "matrix": RANDOM.standard_normal((16, 32)).astype(np.float32),
    "small": RANDOM.standard_normal((16, 8)).astype(np.float32),
    "square": RANDOM.standard_normal((16, 16)).astype(np.float32),
    "b": np.zeros(16, np.float32),
    "s": np.array(0.05, np.float32),
    "s2": np.array(0.06, np.float32),
    "infinite": np.array(np.inf, np.float32),
    "negative": np.array(-0.1, np.float32),
    "nothing": np.array(0, np.float32),
    "absurd": np.array(1e30, np.float32),
    "subnormal": np.array(1e-40, np.float32),
    "large": np.array(1e3, np.float32),
    "small_scale": np.array(1e-9, np.float32),
    "wide": np.full(16, 1e3, np.float32),
    "tiny": np.full(16, 1e-12, np.float32),
    "no_number": np.array(np.nan, np.float32),
    "half": np.array(0.05, np.float16),
    "z": np.array(0, np.int8),
    "least": np.array(-128, np.int8),
    "shifted": np.array(3, np.int8),
    "u": np.array(0, np.uint8),
    "middle": np.array(128, np.uint8),
    "z16": np.array(0, np.int16),
    "ws": np.full(16, 0.02, np.float32),
    "unequal": np.linspace(0.01, 0.03, 16, dtype=np.float32),  # where all are equal, TensorRT sees one scale
    "wz": np.zeros(16, np.int8),
    "bias_integers": np.ones(16, np.int32),
    "bias_scale": np.full(16, 0.001, np.float32),
    "bias_scale_wrong": np.full(16, 0.002, np.float32),
    "bias_zero": np.zeros(16, np.int32),
}
PAIR = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
UNSIGNED = "xq = QuantizeLinear(x, s, u) xd = DequantizeLinear(xq, s, u)"
KERNEL = "wq = QuantizeLinear<axis = 0>(w, ws, wz) wd = DequantizeLinear<axis = 0>(wq, ws, wz)"
STORED = "wd = DequantizeLinear<axis = 0>(integers, ws, wz)"
CONV = "[conv] y = Conv<pads = [1, 1, 1, 1]>(xd, wd, b)"
OUT = "yq = QuantizeLinear(c, s, z) y = DequantizeLinear(yq, s, z)"


def graph(nodes: str, opset: int = 18, x: str = "float[2,16,8,8] x", y: str = "float[2,?,?,?] y") -> ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g ({x}) => ({y}) {{ {nodes} }}')
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in CONSTANTS.items() if name in used
    )
    return model


def product(nodes: str) -> ModelProto:
    return graph(nodes, x="float[2,16,16] x", y="float[2,?,?] y")


def found(model: ModelProto, family: str) -> set[str]:
    return {finding.rule for finding in lint(model, family)}


def built(model: ModelProto, folder: Path) -> Audit:
    onnx.save(model, folder / "model.onnx")
    return summarize(RTX.build(folder / "model.onnx", "int8", TARGET, folder / "model.plan").layers)


def optimized(model: ModelProto, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def scaled_by(scale: str) -> ModelProto:
    return graph(f"xq = QuantizeLinear(x, {scale}, z) xd = DequantizeLinear(xq, {scale}, z) {KERNEL} {CONV}")


QLINEAR = (
    "xq = QuantizeLinear(x, s, z) [conv] yq = QLinearConv<pads = [1, 1, 1, 1]>(xq, s, z, integers, ws, wz, s, z)"
    " y = DequantizeLinear(yq, s, z)"
)
SIXTEEN = "xq = QuantizeLinear(x, s, z16) xd = DequantizeLinear(xq, s, z16)"
LEFT_OUT = "xq = QuantizeLinear(x, s) xd = DequantizeLinear(xq, s)"
ZERO_POINT = "xq = QuantizeLinear(x, s, shifted) xd = DequantizeLinear(xq, s, shifted)"
BIAS = "bd = DequantizeLinear<axis = 0>(bias_integers, bias_scale, bias_zero)"
CONV_BIAS = "[conv] y = Conv<pads = [1, 1, 1, 1]>(xd, wd, bd)"
CHANNELS = "xq = QuantizeLinear<axis = 1>(x, ws, wz) xd = DequantizeLinear<axis = 1>(xq, ws, wz)"
AXIS_1 = "wd = DequantizeLinear<axis = 1>(integers, ws, wz)"

REFUSED = {
    "unsigned with a zero-point": (graph(f"{PAIR.replace('z)', 'middle)')} {KERNEL} {CONV}"), "zero-point"),
    "unsigned with zero-point 0": (graph(f"{UNSIGNED} {KERNEL} {CONV}"), "unsigned"),
    "zero-point": (graph(f"{ZERO_POINT} {KERNEL} {CONV}"), "zero-point"),
    "negative scale": (scaled_by("negative"), "scale"),
    "zero scale": (scaled_by("nothing"), "scale"),
    "NaN scale": (scaled_by("no_number"), "scale"),
    "16 bits": (graph(f"{SIXTEEN} {KERNEL} {CONV}", opset=21), "sixteen-bits"),
    "QLinearConv": (graph(QLINEAR), "integer-operator"),
    "integer bias": (graph(f"{PAIR} {KERNEL} {BIAS} {CONV_BIAS}"), "integer-bias"),
}
TAKEN_FOR_RIGHT = {
    "zero-point left out": (graph(f"{LEFT_OUT} {KERNEL} {CONV}"), "unsigned"),
    "infinite scale": (scaled_by("infinite"), "scale"),
    "absurd scale": (scaled_by("absurd"), "absurd-scale"),
    "two scales of one pair": (
        graph(f"xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s2, z) {KERNEL} {CONV}"),
        "mismatched-pair",
    ),
}
WRONG_AXIS = "mq = QuantizeLinear<axis = 0>(matrix, unequal, wz) md = DequantizeLinear<axis = 0>(mq, unequal, wz)"
IN_FLOAT = {
    "activation alone": (graph(f"{PAIR} [conv] y = Conv(xd, w, b)"), "one-sided-product", "error"),
    "weight alone": (graph(f"{KERNEL} [conv] y = Conv(x, wd, b)"), "one-sided-product", "error"),
    "activation per channel": (graph(f"{CHANNELS} {KERNEL} {CONV}"), "activation-per-channel", "error"),
    "weight axis 1": (graph(f"{PAIR} {AXIS_1} {CONV}"), "weight-axis", "warning"),
    "transposed convolution": (
        graph(f"{PAIR} {AXIS_1} [conv] y = ConvTranspose(xd, wd, b)"),
        "transposed-convolution",
        "warning",
    ),
    "product axis 0": (product(f"{PAIR} {WRONG_AXIS} [product] y = MatMul(xd, md)"), "weight-axis", "warning"),
}


@needs_tensorrt_rtx
@pytest.mark.parametrize("case", REFUSED)
def test_what_the_parser_refuses_is_an_error_and_says_so_without_tensorrt(case: str, tmp_path: Path) -> None:
    model, rule = REFUSED[case]
    assert rule in found(model, "tensorrt-rtx")
    assert next(f for f in lint(model, "tensorrt") if f.rule == rule).severity == "error"
    with pytest.raises(BuildFailed):
        built(model, tmp_path)


@needs_tensorrt_rtx
@pytest.mark.parametrize("case", TAKEN_FOR_RIGHT)
def test_what_tensorrt_builds_with_wrong_numbers_is_an_error(case: str, tmp_path: Path) -> None:
    model, rule = TAKEN_FOR_RIGHT[case]
    assert {(f.rule, f.severity) for f in lint(model, "tensorrt-rtx")} == {(rule, "error")}
    assert built(model, tmp_path).int8 == 1


@needs_tensorrt_rtx
@pytest.mark.parametrize("case", IN_FLOAT)
def test_what_tensorrt_builds_in_float_names_the_product(case: str, tmp_path: Path) -> None:
    model, rule, severity = IN_FLOAT[case]
    (finding,) = lint(model, "tensorrt-rtx")
    assert (finding.rule, finding.severity) == (rule, severity)
    assert finding.node in ("conv", "product")
    assert built(model, tmp_path).int8 == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_one_operand_alone_and_channels_of_an_activation_are_errors_for_every_tensorrt(family: str) -> None:
    for case in ("activation alone", "weight alone", "activation per channel"):
        model, rule, _ = IN_FLOAT[case]
        errors = {finding.rule for finding in lint(model, family) if finding.severity == "error"}
        assert errors == ({rule} if family.startswith("tensorrt") else set())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scale_that_nothing_could_have_is_an_error_and_one_that_few_things_have_a_warning(family: str) -> None:
    def scales(model: ModelProto) -> list[tuple[str, str, str]]:
        return [(f.rule, f.severity, f.what) for f in lint(model, family) if f.rule.endswith("scale")]

    assert scales(scaled_by("absurd")) == [("absurd-scale", "error", "its scale 'absurd' covers up to 1.27e+32")]
    assert {rule for rule, severity, _ in scales(scaled_by("subnormal")) if severity == "error"} == {"scale"}
    assert scales(scaled_by("large")) == [("unusual-scale", "warning", "its scale 'large' covers up to 127000")]
    assert scales(scaled_by("small_scale")) == [
        ("unusual-scale", "warning", "its scale 'small_scale' covers up to 1.27e-07")
    ]
    assert [rule for rule, _, _ in scales(graph(f"{PAIR} {KERNEL.replace('ws', 'wide')} {CONV}"))] == ["unusual-scale"]
    assert scales(graph(f"{PAIR} {KERNEL.replace('ws', 'tiny')} {CONV}")) == []
    assert scales(graph(f"{PAIR} {KERNEL} {CONV}")) == []


def test_scales_computed_at_run_time_are_an_error_before_they_end_the_process() -> None:
    model = graph(f"m = ReduceMax<keepdims = 0>(x) {PAIR.replace('s,', 'm,')} {KERNEL} {CONV}")
    (first, second) = lint(model, "tensorrt-rtx")
    assert first.rule == second.rule == "run-time-scale"
    assert first.what == "its scale 'm' is computed at run time"


@needs_tensorrt_rtx
def test_a_weight_behind_a_transpose_is_read_in_the_layout_of_the_product(tmp_path: Path) -> None:
    weight = "mq = QuantizeLinear<axis = {0}>(square, unequal, wz) md = DequantizeLinear<axis = {0}>(mq, unequal, wz)"
    for axis, wanted in ((0, set()), (1, {"weight-axis"})):
        nodes = f"{PAIR} {weight.format(axis)} mt = Transpose<perm = [1, 0]>(md) [product] y = MatMul(xd, mt)"
        assert found(product(nodes), "tensorrt-rtx") == wanted
        assert built(product(nodes), tmp_path).int8 == 1 - len(wanted)


def test_half_scales_below_opset_19_are_an_error_and_from_19_on_are_not() -> None:
    nodes = "xq = QuantizeLinear(x, half, z) y = DequantizeLinear(xq, half, z)"
    for opset, wanted in ((18, {"half-scale"}), (19, set())):
        model = graph(nodes, opset=opset, x="float16[2,16,8,8] x", y="float16[2,16,8,8] y")
        assert found(model, "tensorrt-rtx") == wanted


def test_a_quantizer_without_its_other_half_a_small_product_and_a_second_scale_are_warnings() -> None:
    dangling = graph(f"{PAIR} {KERNEL} {CONV} q = QuantizeLinear(y, s, z)")
    assert [f.what for f in lint(dangling, "tensorrt")] == ["'q' is read by no DequantizeLinear"]
    small = "mq = QuantizeLinear(small, s, z) md = DequantizeLinear(mq, s, z)"
    assert found(product(f"{PAIR} {small} [product] y = MatMul(xd, md)"), "tensorrt") == {"small-product"}
    two = "x2 = QuantizeLinear(x, s2, z) xe = DequantizeLinear(x2, s2, z)"
    assert found(graph(f"{PAIR} {KERNEL} {two} c = Conv<pads=[1,1,1,1]>(xd, wd, b) y = Add(c, xe)"), "tensorrt") == {
        "several-scales"
    }


def test_a_graph_that_is_not_onnx_is_an_error() -> None:
    model = graph(f"{PAIR} {KERNEL} {CONV}")
    model.graph.node[-1].input[1] = "nowhere"
    assert found(model, "tensorrt") == {"invalid-onnx", "one-sided-product"}


CPU_BOTH = f"{UNSIGNED} {KERNEL}"
CPU_CASES = {
    "no quantizer behind a convolution": (graph(f"{CPU_BOTH} {CONV}"), "convolution-without-quantizer"),
    "signed symmetric behind a relu": (
        graph(f"{CPU_BOTH} [conv] a = Conv<pads = [1, 1, 1, 1]>(xd, wd, b) c = Relu(a) {OUT}"),
        "relu-zero-point",
    ),
    "transposed convolution": (
        graph(f"{UNSIGNED} {AXIS_1} [conv] c = ConvTranspose(xd, wd, b) {OUT}"),
        "never-fused",
    ),
    "hard swish": (graph(f"{PAIR} c = HardSwish(xd) {OUT}"), "never-fused"),
    "weight alone": (graph(f"{KERNEL} [conv] c = Conv(x, wd, b) {OUT}"), "one-sided-product-cpu"),
    "activation alone": (product(f"{UNSIGNED} [product] c = MatMul(xd, matrix) {OUT}"), "one-sided-product-cpu"),
    "bias of another scale": (
        graph(
            f"{UNSIGNED} {KERNEL} {BIAS.replace('bias_scale', 'bias_scale_wrong')}"
            f" [conv] c = Conv<pads = [1, 1, 1, 1]>(xd, wd, bd) {OUT}"
        ),
        "bias-scale",
    ),
    "16 bits": (graph(f"{SIXTEEN} {KERNEL} [conv] c = Conv(xd, wd, b) {OUT}", opset=21), "foreign-type"),
}


@pytest.mark.parametrize("case", CPU_CASES)
def test_on_a_cpu_what_stays_in_float_is_a_warning(case: str, tmp_path: Path) -> None:
    model, rule = CPU_CASES[case]
    assert rule in found(model, "cpu-vnni")
    operators = optimized(model, tmp_path)
    assert not operators.keys() & {"QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm"}, operators


def test_on_a_cpu_what_fuses_has_no_finding(tmp_path: Path) -> None:
    model = graph(f"{UNSIGNED} {STORED} {BIAS} [conv] c = Conv<pads = [1, 1, 1, 1]>(xd, wd, bd) {OUT}")
    assert optimized(model, tmp_path)["QLinearConv"] == 1
    assert found(model, "cpu-vnni") == set()
    assert found(model, "cpu-avx2") == {"saturation"}
    assert found(model, "cpu-arm64") == {"unsigned-on-arm"}


def test_on_a_cpu_the_float_weight_of_a_quantized_convolution_is_quantized_by_onnxruntime(tmp_path: Path) -> None:
    model = graph(f"{UNSIGNED} [conv] c = Conv(xd, w, b) {OUT}")
    assert optimized(model, tmp_path)["QLinearConv"] == 1
    assert found(model, "cpu-vnni") == set()


def quantized(model: ModelProto, family: str) -> ModelProto:
    model = prepared(model)
    source = model.graph.input[0]
    shape = [d.dim_value for d in source.type.tensor_type.shape.dim][1:]
    sketches = collect(model, [Batch(["a", "b"], {source.name: images(2, *shape)})], threads=1)
    return quantize(model, ranges_from_sketches(sketches, "minmax"), place(model, family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("network", [residual, attention])
def test_the_graphs_that_we_write_have_no_finding(network: Any, family: str) -> None:
    if network is attention and family == "tensorrt-dla":
        with pytest.raises(GraphRefused, match="DLA has no INT8 MatMul"):
            quantized(network(), family)
        return
    assert lint(quantized(network(), family), family) == ()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.startswith("tensorrt")])
def test_a_float_layer_behind_a_pool_in_int8_is_no_finding_in_what_we_write(family: str) -> None:
    net = NetworkBuilder()
    x = net.node("MaxPool", net.node("Relu", net.conv("image", 16, 32)), kernel_shape=[2, 2], strides=[2, 2])
    net.linear(net.node("Flatten", x), 32 * 16, 8, output="y")
    model = quantized(net.model({"image": ["batch", 16, 8, 8]}, {"y": ["batch", 8]}), family)
    assert lint(model, family) == ()


@pytest.mark.parametrize("family", ["tensorrt", "tensorrt-rtx"])
def test_on_a_gpu_a_float_layer_behind_a_pool_in_int8_is_one_sided_as_any_other(family: str) -> None:
    pooled = "[pool] p = MaxPool<kernel_shape = [1, 1]>(xd)"
    assert found(graph(f"{PAIR} {pooled} [conv] y = Conv(p, w, b)"), family) == {"one-sided-product"}


def test_the_graph_of_a_cpu_is_refused_for_tensorrt() -> None:
    errors = {f.rule for f in lint(quantized(residual(), "cpu-vnni"), "tensorrt") if f.severity == "error"}
    assert errors == {"unsigned", "integer-bias", "zero-point"}


def test_what_subgraphs_and_functions_hold_is_seen() -> None:
    inner = f"{{ {UNSIGNED} {KERNEL} [conv] a = Conv<pads = [1, 1, 1, 1]>(xd, wd, b) }}"
    branches = f"then_branch = t () => (float[2,16,8,8] a) {inner}, else_branch = e () => (float[2,16,8,8] e) "
    model = graph(f"y = If <{branches} {{ e = Identity(x) }}> (c)", x="float[2,16,8,8] x, bool c")
    assert "unsigned" in found(model, "tensorrt")


def test_rules_are_told_apart_by_name_and_each_has_a_source_and_versions() -> None:
    assert len({rule.name for rule in LINT_RULES}) == len(LINT_RULES)
    assert all(rule.why and rule.advice and rule.source and rule.versions and rule.families for rule in LINT_RULES)


def test_an_unknown_family_is_refused_with_the_choice() -> None:
    with pytest.raises(CalibrationError, match="family 'cpu' is unknown; choose from cpu-vnni"):
        lint(graph(f"{PAIR} {KERNEL} {CONV}"), "cpu")


def test_the_command_exits_with_1_on_errors_and_prints_what_why_and_what_to_do(tmp_path: Path) -> None:
    onnx.save(graph(f"{LEFT_OUT} {KERNEL} {CONV}"), tmp_path / "wrong.onnx")
    onnx.save(graph(f"{PAIR} {AXIS_1} {CONV}"), tmp_path / "slow.onnx")
    wrong = run_edgestill("lint", tmp_path / "wrong.onnx", "--family", "tensorrt-rtx")
    assert wrong.returncode == 1
    assert wrong.stdout.startswith("tensorrt-rtx: 2 errors, 0 warnings\n  error [unsigned] 2 places\n    why: ")
    assert wrong.stdout.count("its quantized side is UINT8, since its zero-point is left out\n") == 2
    assert wrong.stdout.count("why: ") == wrong.stdout.count("do: ") == wrong.stdout.count("source: ") == 1
    slow = run_edgestill("lint", tmp_path / "slow.onnx", "--family", "tensorrt-rtx", "--family", "cpu", "--json")
    assert slow.returncode == 0
    (finding,) = json.loads(slow.stdout)["families"]["tensorrt-rtx"]
    assert (finding["rule"], finding["node"]) == ("weight-axis", "conv")
    assert run_edgestill("lint", tmp_path / "slow.onnx", "--family", "tensorrt", "--strict").returncode == 1


def test_the_places_of_a_rule_are_counted_from_the_eleventh_on_and_json_keeps_them(tmp_path: Path) -> None:
    pairs = "".join(f" q{i} = QuantizeLinear(x, s) d{i} = DequantizeLinear(q{i}, s)" for i in range(20))
    added = "".join(f" y{i + 1} = Add(y{i}, d{i})" for i in range(19))
    model = graph(f"{pairs} y0 = Identity(x) {added} y = Add(y19, d19)", y="float[2,16,8,8] y")
    onnx.save(model, tmp_path / "many.onnx")
    outcome = lint_command(LintRequest(tmp_path / "many.onnx", ("tensorrt",)))
    (text, first, *rest) = shown(outcome, 200).split("  error [unsigned] ")[1].split("    at ")
    assert text.startswith("40 places\n    why: TensorRT takes it for INT8")
    assert "its quantized side is UINT8" in first
    assert len(rest) == 9
    assert rest[-1].endswith("\n    and 30 more\n")
    assert len([f for f in outcome.document["families"]["tensorrt"] if f["rule"] == "unsigned"]) == 40


def test_the_command_says_what_is_wrong_with_its_arguments(tmp_path: Path) -> None:
    missing = run_edgestill("lint", tmp_path / "no.onnx", "--family", "tensorrt")
    assert missing.returncode == 2
    assert "no.onnx: there is no such file" in missing.stderr
    (tmp_path / "noise.onnx").write_text("no graph")
    family = run_edgestill("lint", tmp_path / "noise.onnx", "--family", "tensort")
    assert "family 'tensort' is unknown; did you mean 'tensorrt'?" in family.stderr


@pytest.mark.parametrize(
    "content", [b"no graph", b"", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False"]
)
@pytest.mark.parametrize("families", [(), ("tensorrt",)])
def test_a_file_that_is_neither_graph_nor_cache_is_called_so(
    content: bytes, families: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    said = r"x\.npy: is neither an ONNX graph nor a calibration cache of TensorRT; give one of them"
    with pytest.raises(NotAcceptable, match=said):
        lint_command(LintRequest(tmp_path / "x.npy", families))
