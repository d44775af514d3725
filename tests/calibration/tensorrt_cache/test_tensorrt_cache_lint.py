"""The linter of calibration caches: what a TensorRT would ignore, refuse, or take wrongly without a word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnx_networks import NetworkBuilder
from tiny_run import run_edgestill

from calibration.lint import Finding
from calibration.range_table import GraphFile
from calibration.tensorrt_cache.cache import hexadecimal
from calibration.tensorrt_cache.lint import CACHE_RULES, is_cache, lint_cache
from calibration.tensorrt_cache.origin import CacheOrigin
from calibration.tensorrt_cache.subject import LintedGraph, Subject
from calibration.tensorrt_cache.version import wanted_version
from pipeline.commands.lint import LintRequest, lint
from pipeline.errors import IntegrityError, RecipeError

GRAPH_SHA256, SOURCE_SHA256 = "ab" * 32, "cd" * 32
TENSORS = ("image", "/Conv/output", "relu", "mean", "logits", "softmax")


def network() -> ModelProto:
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("image", 1, 16, output="/Conv/output"), output="relu")
    x = net.node("ReduceMean", x, net.weight(np.array([2, 3], np.int64)), output="mean", keepdims=0)
    net.node("Softmax", net.linear(x, 16, 4, output="logits"), output="softmax")
    return net.model({"image": ["batch", 1, 8, 8]}, {"softmax": ["batch", 4]})


def cache(first_line: str = "TRT-100300-EntropyCalibration2", /, **changed: str | None) -> bytes:
    """Of every tensor, each with the scale 1 / 127; changed digits, or None for a line left out."""
    scales: dict[str, str | None] = {**dict.fromkeys(TENSORS, "3c010204"), **changed}
    lines = [f"{name}: {digits}" for name, digits in scales.items() if digits is not None]
    return "\n".join([first_line, *lines, ""]).encode()


def origin(data: bytes, graph: str = GRAPH_SHA256, source: str = SOURCE_SHA256) -> CacheOrigin:
    digest = Subject(data, None, None, None).sha256
    files = GraphFile("m.fp32.onnx", graph), GraphFile("m.onnx", source)
    return CacheOrigin(digest, "TRT-100300-EntropyCalibration2", "entropy", 512, *files)


def found(
    data: bytes, *, graph: bool = True, wanted: str | None = None, of: CacheOrigin | None = None
) -> tuple[Finding, ...]:
    linted = LintedGraph(network(), GRAPH_SHA256) if graph else None
    return lint_cache(Subject(data, of, linted, wanted_version(wanted) if wanted else None))


def only(data: bytes, **held_against: object) -> Finding:
    (finding,) = found(data, **held_against)  # type: ignore[arg-type] # passed on as they are
    return finding


def test_a_cache_that_fits_its_graph_record_and_version_has_no_finding() -> None:
    data = cache(**{"(Unnamed Layer* 3) [Constant]_output": "0", "ONNXTRT_Broadcast_output": "3c010204"})
    assert found(data, wanted="10.3.0", of=origin(data)) == ()
    assert found(cache(), graph=False) == ()


@pytest.mark.parametrize(
    ("data", "rule", "severity", "said"),
    [
        (cache() + b"x: 3c01", "unreadable-line", "error", "the file ends within 'x: 3c01'; it was cut off: copy"),
        (cache(relu="7f800000"), "no-scale", "error", "its scale is inf (7f800000)"),
        (cache(relu="7fc00000"), "no-scale", "error", "its scale is nan (7fc00000)"),
        (cache(relu="bc010204"), "no-scale", "error", "its scale is -0.00787402 (bc010204)"),
        (cache(relu="0"), "zero-scale", "error", "its scale is 0"),
        (cache(relu="00000001"), "absurd-scale", "warning", "its scale 1.4013e-45 covers up to 1.77965e-43"),
        (cache(relu="7f000000"), "absurd-scale", "warning", "its scale 1.70141e+38 covers up to 2.16079e+40"),
        (cache() + b"relu: 3c010204\n", "listed-twice", "warning", "it stands in line 4 already, with the same scale"),
        (cache().replace(b"\n", b"\r\n"), "windows-line-ends", "warning", "7 lines end as in Windows"),
        (cache("TRT-100300-EntropyCalibrator2"), "other-calibrator", "error", "'EntropyCalibrator2' is none of Entro"),
        (cache("TRT-110000-EntropyCalibration2"), "no-cache-any-more", "error", "TensorRT 11.0.0 takes no cache"),
        (cache(relu=None), "missing-tensor", "error", "1 tensor of the graph has no scale: 'relu'"),
        (cache(softmax=None), "missing-elsewhere", "warning", "1 tensor of the graph has no scale: 'softmax'"),
        (cache(other="3c010204"), "unknown-tensor", "warning", "1 tensor is not in the graph: 'other'"),
        (cache(softmax="3f800000"), "amax-for-scale", "error", "scale 1 covers up to 127, and Softmax gives at most 1"),
    ],
)
def test_what_is_wrong_is_found_alone(data: bytes, rule: str, severity: str, said: str) -> None:
    finding = only(data)
    assert (finding.rule, finding.severity) == (rule, severity)
    assert said in finding.what
    assert finding.why
    assert finding.advice
    assert finding.source


def test_digits_from_the_other_end_are_one_finding() -> None:
    swapped = {name: hexadecimal(np.float32(0.02 + 0.01 * i).byteswap()) for i, name in enumerate(TENSORS)}
    finding = only(cache(**swapped))
    assert (finding.rule, finding.node) == ("wrong-byte-order", "line 2, tensor 'image'")
    assert "0.02 from the other end; so are 6 of 6 scales" in finding.what


def test_a_renamed_tensor_is_found_from_both_sides() -> None:
    missing, unknown = found(cache(**{"/Conv/output": None, "Conv_output:0": "3c010204"}))
    assert missing.what == "1 tensor of the graph has no scale: '/Conv/output' (was it renamed to 'Conv_output:0'?)"
    assert unknown.what == "1 tensor is not in the graph: 'Conv_output:0' (is it '/Conv/output'?)"


def test_only_a_name_that_the_graph_does_not_have_is_another_one_renamed() -> None:
    net = NetworkBuilder()
    x, names = "image", [f"relu_{index}" for index in range(12)]
    for index, name in enumerate(names):
        x = net.node("Relu", net.conv(x, 16 if index else 1, 16, output=f"conv_{index}"), output=name)
    graph = LintedGraph(net.model({"image": ["batch", 1, 8, 8]}, {x: ["batch", 16, 8, 8]}), GRAPH_SHA256)
    listed = [*(f"conv_{index}" for index in range(12)), "image", *names]
    given = [f"{name}_renamed" if name in ("relu_1", "relu_10") else name for name in listed]
    lines = ["TRT-100300-EntropyCalibration2", *(f"{name}: 3c010204" for name in given), ""]
    missing, unknown = lint_cache(Subject("\n".join(lines).encode(), None, graph, None))
    assert "'relu_1' (was it renamed to 'relu_1_renamed'?), 'relu_10' (was it renamed to 'relu_10_re" in missing.what
    assert "'relu_1_renamed' (is it 'relu_1'?), 'relu_10_renamed' (is it 'relu_10'?)" in unknown.what
    lines = [line for line in lines if "renamed" not in line]
    (missing,) = lint_cache(Subject("\n".join(lines).encode(), None, graph, None))
    assert missing.what == "2 tensors of the graph have no scale: 'relu_1', 'relu_10'"


def test_a_zero_of_what_tensorrt_invented_is_none_of_the_graph() -> None:
    zeros = cache(**{"(Unnamed Layer* 3) [Constant]_output": "0", "/a/Conv_output_0": "0", "mean": "0"})
    (finding,) = found(zeros)
    assert (finding.rule, finding.node) == ("zero-scale", "line 5, tensor 'mean'")
    (error, *warnings) = found(zeros, graph=False)
    assert (error.rule, error.severity, error.node) == ("zero-scale", "error", "line 5, tensor 'mean'")
    assert {(each.rule, each.severity) for each in warnings} == {("zero-scale-elsewhere", "warning")}
    assert [each.node for each in warnings] == [
        "line 8, tensor '(Unnamed Layer* 3) [Constant]_output'",
        "line 9, tensor '/a/Conv_output_0'",
    ]


def test_many_tensors_are_counted() -> None:
    finding = only(cache(**{f"gone_{index}": "3c010204" for index in range(25)}))
    assert finding.what.startswith("25 tensors are not in the graph: 'gone_0', ")
    assert finding.what.endswith("'gone_9' and 15 more")


@pytest.mark.parametrize(
    ("wanted", "rule", "said"),
    [
        ("8.6.1", "other-version", "it is of TensorRT 10.3.0, and 8.6.1 is to take it"),
        ("10.3.1", "other-version", "it is of TensorRT 10.3.0, and 10.3.1 is to take it"),
        (
            "10.3.0-MinMaxCalibration",
            "other-calibrator",
            "it is for IInt8EntropyCalibrator2, and IInt8Min",
        ),
    ],
)
def test_another_version_or_calibrator_than_the_one_that_is_to_take_it(wanted: str, rule: str, said: str) -> None:
    finding = only(cache(), wanted=wanted)
    assert finding.rule == rule
    assert finding.what.startswith(said)


def test_the_record_beside_a_cache_gives_away_an_edit_and_another_model() -> None:
    data = cache()
    assert only(cache(relu="3d000000"), of=origin(data)).rule == "changed"
    other = only(data, of=origin(data, graph="ee" * 32))
    assert (other.rule, other.severity) == ("other-model", "error")
    assert other.what == "it is of m.fp32.onnx, calibrated from m.onnx; the graph given is neither"
    source = only(data, of=origin(data, graph="ee" * 32, source=GRAPH_SHA256))
    assert (source.rule, source.severity) == ("unmeasured-graph", "warning")
    assert source.what.endswith("the one that was measured is m.fp32.onnx")


def test_a_cache_without_a_record_is_of_another_model_where_no_name_fits() -> None:
    data = b"TRT-8601-EntropyCalibration2\ninput_1:0: 3c010204\nconv1: 3c010204\n"
    finding = only(data)
    assert (finding.rule, finding.what) == ("other-model", "none of its 2 tensors is in the graph")


def test_errors_come_first_and_every_rule_has_a_name_of_its_own() -> None:
    severities = [finding.severity for finding in found(cache(relu="0", mean="7f800000", softmax=None))]
    assert severities == ["error", "error", "warning"]
    assert len({rule.name for rule in CACHE_RULES}) == len(CACHE_RULES)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (cache(), True),
        (b"\xef\xbb\xbf" + cache(), True),
        (b"image: 3c010204\n", True),
        ("TRT-8601-EntropyCalibration2\nschön: 3c010204\n".encode(), True),
        (network().SerializeToString(), False),
        (b"", False),
        (b"no graph", False),
        (b"\x89PNG\r\n\x1a\n", False),
    ],
)
def test_the_content_tells_a_cache_from_a_graph(data: bytes, expected: bool) -> None:
    assert is_cache(data) is expected


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """(cache, graph)."""
    (tmp_path / "calib.cache").write_bytes(cache(relu=None))
    onnx.save(network(), tmp_path / "m.onnx")
    return tmp_path / "calib.cache", tmp_path / "m.onnx"


def test_the_command_lints_a_cache_beside_its_graph(files: tuple[Path, Path]) -> None:
    done = run_edgestill("lint", files[0], "--model", files[1], "--tensorrt-version", "8.6.1", "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert [each["rule"] for each in document["findings"]] == ["other-version", "missing-tensor"]
    assert document["cache"] == str(files[0])


def test_a_cache_alone_is_linted_too_and_warnings_count_where_asked(files: tuple[Path, Path]) -> None:
    assert lint(LintRequest(files[0])).exit_code == 0
    files[0].write_bytes(cache().replace(b"\n", b"\r\n"))
    assert lint(LintRequest(files[0])).exit_code == 0
    assert lint(LintRequest(files[0], strict=True)).exit_code == 1


def test_options_of_the_other_kind_of_file_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(RecipeError, match="is a calibration cache, which no --family shapes; leave it out"):
        lint(LintRequest(files[0], ("cpu",)))
    with pytest.raises(RecipeError, match="is no calibration cache; --model and --tensorrt-version are for one"):
        lint(LintRequest(files[1], ("cpu",), model=files[1]))
    with pytest.raises(RecipeError, match="say with --family whose rules it is to keep"):
        lint(LintRequest(files[1]))
    with pytest.raises(RecipeError, match="TensorRT 11 takes no calibration cache"):
        lint(LintRequest(files[0], tensorrt_version="11.0.0"))
    with pytest.raises(RecipeError, match=r"no\.onnx: there is no such file"):
        lint(LintRequest(files[0], model=files[0].with_name("no.onnx")))
    files[0].with_name("calib.cache.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"does not say what calib\.cache came from"):
        lint(LintRequest(files[0]))
