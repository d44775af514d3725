"""`edgestill quantize --cache`: the scales of a TensorRT's calibration cache in a Q/DQ graph, without data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_networks import NetworkBuilder
from own_graph import NETWORK, network, samples, saved, shown
from tiny_run import run_edgestill

from calibration.tensorrt_cache.cache import CalibrationCache
from pipeline.commands.outcome import Outcome
from pipeline.commands.quantize import quantize
from pipeline.commands.quantize_cache import CacheRequest, quantize_cache
from pipeline.commands.quantize_request import QuantizeRequest
from pipeline.errors import DataRejected, IntegrityError, NotAcceptable, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own graph."""
    onnx.save(network(), tmp_path / "own.onnx")
    return tmp_path / "own.onnx"


def calibrated(model: Path) -> Path:
    """Our own cache of the graph, beside the Q/DQ graph of the same calibration: a cache knows no corrected biases."""
    data, out = saved(model.with_name("x.npz"), x=samples()), model.parent / "out"
    request = QuantizeRequest(model, data, ("tensorrt",), "entropy", None, out, 8, 1, ("10.3.0",), repair=())
    quantize(request, QuietProgress(), Cancellation())
    return out / "own.tensorrt-10.3.0.cache"


def converted(model: Path, cache: Path, *families: str, versions: tuple[str, ...] = ()) -> Outcome:
    return quantize_cache(CacheRequest(model, cache, families or ("tensorrt",), model.parent / "from", versions))


def foreign(folder: Path, **scales: str) -> Path:
    """A cache that nothing is recorded of."""
    lines = ["TRT-8601-EntropyCalibration2", *(f"{name}: {digits}" for name, digits in scales.items())]
    (folder / "calib.cache").write_text("\n".join(lines) + "\n")
    return folder / "calib.cache"


def test_our_own_cache_gives_the_graph_of_the_same_calibration_byte_for_byte(model: Path) -> None:
    cache = calibrated(model)
    outcome = converted(model, cache)
    assert (model.parent / "from" / "own.tensorrt.int8.onnx").read_bytes() == (
        cache.with_name("own.tensorrt.int8.onnx").read_bytes()
    )
    assert (outcome.document["images"], outcome.document["method"]) == (20, "TRT-100300-EntropyCalibration2")
    assert sorted(file.name for file in (model.parent / "from").iterdir()) == [
        "own.placement.json",
        "own.ranges.json",
        "own.tensorrt.int8.onnx",
    ]
    assert "no FP16 graph, because a cache does not say how large the values were" in shown(outcome, 200)


def test_the_graph_that_was_measured_may_be_given_too(model: Path) -> None:
    cache = calibrated(model)
    converted(cache.with_name("own.fp32.onnx"), cache)


def test_a_foreign_cache_keeps_its_bits_whatever_its_scales(model: Path) -> None:
    ties = np.array(1.5 + 64 * 2**-23, ">f4").tobytes().hex()  # no float32 amax makes this scale
    cache = foreign(model.parent, x=ties, c1="3e000000", r1="3c010a14", **{"(Unnamed Layer* 3) [Constant]_output": "0"})
    outcome = converted(model, cache)
    graph = onnx.load(model.parent / "from" / "own.tensorrt.int8.onnx").graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    assert stored["x_scale"].tobytes().hex() == bytes.fromhex(ties)[::-1].hex()
    assert stored["r1_scale"].tobytes().hex() == "140a013c"
    assert (outcome.document["images"], outcome.document["unused_scales"]) == (0, 1)
    assert set(json.loads((model.parent / "from" / "own.ranges.json").read_text())["tensors"]) == {"x", "c1", "r1"}


def test_a_cache_with_the_names_of_batch_norms_fits_the_folded_graph(tmp_path: Path) -> None:
    net = NetworkBuilder()
    x = net.node("Relu", net.batch_norm(net.conv("image", 1, 16), 16), output="first")
    net.linear(net.spatial_mean(net.conv(x, 16, 16)), 16, 4, output="logits")
    onnx.save(net.model({"image": ["batch", 1, 8, 8]}, {"logits": ["batch", 4]}), tmp_path / "bn.onnx")
    names = {"image": "3c010204", "conv_0": "3d000000", "batchnormalization_1": "3d000000", "first": "3d000000"}
    converted(tmp_path / "bn.onnx", foreign(tmp_path, **names))
    assert (tmp_path / "from" / "bn.tensorrt.int8.onnx").exists()


def test_the_same_ranges_are_written_for_another_tensorrt(model: Path) -> None:
    onnx.save(network(NETWORK.replace(": 18]", ": 17]")), model)
    cache = calibrated(model)
    converted(model, cache, versions=("8.6.1",))
    found = CalibrationCache.load(model.parent / "from" / "own.tensorrt-8.6.1.cache")
    assert found.scales == CalibrationCache.load(cache).scales
    assert found.version.first_line == "TRT-8601-EntropyCalibration2"


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ({"x": "3c010204"}, r"lacks the scale of 1 tensor that the graph needs: 'r1'; it was made for another graph"),
        ({"x": "3c010204", "R1:0": "3c010204"}, r"'r1' \(there is 'R1:0'\)"),
        (
            {"x": "3c010204", "r1_renamed": "3c010204", "r2": "3c010204"},
            r": 'r1' \(there is 'r1_renamed'\); it was made",
        ),
        ({"x": "3c010204", "r2": "3c010204", "c1": "3c010204"}, r"needs: 'r1'; it was made for another graph"),
        (
            {"x": "0", "r1": "3c010204"},
            r"line 2, tensor 'x': its scale is 0; the tensor was zero on all .*write 3f800000",
        ),
        (
            {"x": "3c010204", "r1": "7f800000"},
            r"'r1': its scale is inf \(7f800000\); no INT8 .* look for NaN, infinity",
        ),
        (
            {"x": "3c010204", "r1": "3c010204", "r2": "ff800000", "y": "0"},
            r"'r2': its scale is -inf .*; line 5, tensor 'y'",
        ),
        (
            {"x": "0402013c", "r1": "0402013c"},
            r"from the other end; so are 2 of 2 scales; TensorRT reads the digits as a big",
        ),
        ({"x": "3c01020g"}, r"calib\.cache:2: the scale of 'x' is '3c01020g', not the hexadecimal digits"),
    ],
)
def test_a_cache_that_does_not_serve_is_refused(model: Path, scales: dict[str, str], said: str) -> None:
    with pytest.raises(DataRejected, match=said):
        converted(model, foreign(model.parent, **scales))
    assert not (model.parent / "from").exists()


def test_what_the_linter_warns_of_is_said_and_what_tensorrt_alone_would_mind_is_not(model: Path) -> None:
    given = foreign(model.parent, x="3c010204", r1="7149f2ca", other="7f800000")
    given.write_text(given.read_text().replace("TRT-8601-EntropyCalibration2", "TRT-8601-LegacyCalibration"))
    outcome = converted(model, given)
    assert [each["rule"] for each in outcome.document["warnings"]] == ["absurd-scale", "unknown-tensor"]
    told = shown(outcome, 200)
    assert "warning [absurd-scale] line 3, tensor 'r1': its scale 1e+30 covers up to 1.27e+32\n    why: " in told
    assert "1 scale of calib.cache belongs to no tensor of the graph" in told


def test_a_cache_that_was_changed_or_is_of_another_model_is_refused(model: Path) -> None:
    cache = calibrated(model)
    other = network()
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((8, 1, 3, 3), np.float32), "w1"))
    onnx.save(other, model.with_name("other.onnx"))
    with pytest.raises(IntegrityError, match=r"is of own\.fp32\.onnx, calibrated from own\.onnx, and .*other\.onnx is"):
        converted(model.with_name("other.onnx"), cache)
    cache.write_text(cache.read_text().replace("x: ", "x: 0"))
    with pytest.raises(
        IntegrityError, match=r"is not what was written: SHA-256 differs .* own\.tensorrt-10\.3\.0\.cache"
    ):
        converted(model, cache)
    cache.with_name(f"{cache.name}.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"does not say what own\.tensorrt-10\.3\.0\.cache came"):
        converted(model, cache)


def test_what_a_cache_cannot_give_is_refused_before_anything_runs(model: Path) -> None:
    cache = foreign(model.parent, x="3c010204")
    with pytest.raises(RecipeError, match="family 'cpu' wants the low and the high end of each range"):
        converted(model, cache, "cpu")
    with pytest.raises(RecipeError, match="family 'tensort' is unknown; did you mean 'tensorrt'"):
        converted(model, cache, "tensort")
    with pytest.raises(
        RecipeError, match=r"own\.onnx: TensorRT 8\.6\.1 reads opsets up to 17, and the graph .* 18: export"
    ):
        converted(model, cache, versions=("8.6.1",))
    with pytest.raises(RecipeError, match=r"no\.cache: there is no such file"):
        converted(model, model.with_name("no.cache"))
    with pytest.raises(NotAcceptable, match=r"calib\.cache: is no ONNX file"):
        converted(cache, cache)


def test_the_command_line_takes_data_or_a_cache(model: Path) -> None:
    cache = foreign(model.parent, x="3c010204", r1="3c010204")
    done = run_edgestill("quantize", model, "--cache", cache, "--family", "tensorrt", "--out", model.parent / "o", "-q")
    assert done.returncode == 0, done.stderr
    assert (model.parent / "o" / "own.tensorrt.int8.onnx").exists()
