"""Will it load there? From headers, manifests and devices, and never by loading."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from plans import plan_bytes
from small_training import invoke
from tensorrt_graphs import PLAIN, RTX, TARGET, needs_tensorrt_rtx, weights, written

from engines.base import AxisProfile, Target
from engines.builder_options import BuilderOptions
from engines.compatibility import Answer, EngineFacts, facts_of, will_load
from engines.device import Device
from engines.errors import EngineDamaged
from engines.plan import PlanHeader, plan_header
from engines.tensorrt.trtexec import trtexec_line
from pipeline.building.evidence import device_here, evidence_beside
from pipeline.commands.doctor import doctor
from pipeline.commands.preflight import preflight
from pipeline.errors import IntegrityError, RecipeError

RTX_4090 = Device("Linux", "x86_64", {"tensorrt-rtx": "1.7.1.116"}, "8.9", "RTX 4090", "13.0", None)
ORIN = Device("Linux", "aarch64", {"tensorrt": "10.3.0"}, "8.7", "Orin (nvgpu)", "12.6", 2)

PORTABLE = EngineFacts("tensorrt-rtx", (1, 7, 1, 116), "Linux", "x86_64", ())
ADA = replace(PORTABLE, compute_capabilities=("8.9", "12.0"))
ON_ORIN = EngineFacts("tensorrt", (10, 3, 0, 30), "Linux", "aarch64", ("8.7",), gpu="Orin (nvgpu)")
COMPATIBLE = replace(ON_ORIN, version_compatible=True)


@pytest.mark.parametrize(
    ("engine", "device", "verdict", "reason"),
    [
        (PORTABLE, RTX_4090, "yes", "a portable engine loads on 8.6, 8.9, 12.0, 12.1"),
        (replace(PORTABLE, system="Windows"), RTX_4090, "yes", "both are tensorrt-rtx 1.7.1.116"),
        (
            replace(PORTABLE, architecture="aarch64"),
            RTX_4090,
            "unknown",
            "whether it loads on x86_64 is not documented",
        ),
        (PORTABLE, replace(RTX_4090, compute_capability="7.5"), "no", "loads on Ampere and later"),
        (PORTABLE, replace(RTX_4090, compute_capability="8.0"), "unknown", "portable engines are documented for"),
        (ADA, RTX_4090, "yes", "8.9, 12.0"),
        (ADA, replace(RTX_4090, compute_capability="8.6"), "no", "8.9, 12.0"),
        (replace(ADA, compute_capabilities=None), RTX_4090, "unknown", "nobody recorded the compute capabilities"),
        (ADA, replace(RTX_4090, runtimes={"tensorrt-rtx": "1.8.0.1"}), "no", "releases of TensorRT-RTX do not mix"),
        (ADA, replace(RTX_4090, runtimes={"tensorrt": "11.1.0"}), "no", "tensorrt-rtx is not installed there"),
        (ADA, replace(RTX_4090, compute_capability=None), "no", "shows no GPU"),
        (ON_ORIN, ORIN, "yes", "both are tensorrt 10.3.0"),
        (ON_ORIN, replace(ORIN, runtimes={"tensorrt": "10.7.0"}), "no", "without version_compatible"),
        (ON_ORIN, replace(ORIN, runtimes={"tensorrt": ""}), "unknown", "nobody recorded which tensorrt is installed"),
        (ON_ORIN, replace(ORIN, architecture="x86_64"), "no", "engines do not travel"),
        (ON_ORIN, replace(ORIN, compute_capability="11.0"), "no", "it was built for compute capability 8.7"),
        (ON_ORIN, replace(ORIN, gpu="Another"), "unknown", "Another"),
        (
            replace(ON_ORIN, hardware_compatibility="same_compute_capability"),
            replace(ORIN, gpu="Another"),
            "yes",
            "8.7",
        ),
        (
            replace(ON_ORIN, hardware_compatibility="ampere_plus"),
            replace(ORIN, compute_capability="12.0"),
            "yes",
            "8.0 and newer",
        ),
        (COMPATIBLE, replace(ORIN, runtimes={"tensorrt": "10.7.0"}), "unknown", "the lean runtime of 10.3.0.30"),
        (COMPATIBLE, replace(ORIN, runtimes={"tensorrt": "11.1.0"}), "unknown", "the lean runtime of 10.3.0.30"),
        (COMPATIBLE, replace(ORIN, runtimes={"tensorrt": "10.2.0"}), "no", "version-compatible plans"),
        (replace(COMPATIBLE, version=(8, 6, 1, 6)), replace(ORIN, runtimes={"tensorrt": "11.1.0"}), "no", "8.6.1.6"),
        (replace(ON_ORIN, dla_core=1), ORIN, "yes", "10.3.0"),
        (replace(ON_ORIN, dla_core=0), replace(ORIN, dla_cores=0), "no", "it is for DLA core 0, and the device has 0"),
        (replace(ON_ORIN, dla_core=0), replace(ORIN, dla_cores=None), "unknown", "how many DLA cores"),
        (replace(ON_ORIN, system=None), ORIN, "unknown", "nobody recorded the system"),
    ],
)
def test_each_documented_rule_decides(engine: EngineFacts, device: Device, verdict: str, reason: str) -> None:
    answer = will_load(engine, device)
    assert answer.verdict == verdict, answer
    assert any(reason in each for each in answer.reasons), answer


def test_a_no_outweighs_whatever_is_unknown() -> None:
    unknown = replace(ON_ORIN, system=None)
    answer = will_load(unknown, replace(ORIN, runtimes={}))
    assert answer == Answer("no", ("tensorrt is not installed there",))


@pytest.mark.parametrize(("tag", "runtime"), [(b"vtrt", "tensorrt-rtx"), (b"ftrt", "tensorrt")])
def test_a_header_tells_runtime_and_version(tag: bytes, runtime: str, tmp_path: Path) -> None:
    assert plan_header(plan_bytes((10, 3, 0, 30), tag), tmp_path) == PlanHeader(runtime, (10, 3, 0, 30))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes are no plan"),
        (plan_bytes()[:20], "20 bytes are no plan"),
        (plan_bytes(tag=b"PK\x03\x04"), "as no plan of TensorRT does"),
        (plan_bytes(serialization=9), r"of a serialization \(9\)"),
        (plan_bytes() + b"x", "cut off or added to"),
    ],
)
def test_what_is_no_whole_plan_is_damaged(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(EngineDamaged, match=said):
        plan_header(data, tmp_path)


def test_the_gpu_that_tensorrt_built_on_counts_as_named() -> None:
    header, machine = PlanHeader("tensorrt", (10, 3, 0, 30)), ORIN.to_json()
    facts = facts_of(header, Target("orin", "tensorrt"), machine)
    assert facts.compute_capabilities == ("8.7",)
    assert facts_of(header, Target("orin", "tensorrt")).compute_capabilities is None


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    graph = written(tmp_path, PLAIN, weights())
    built = invoke("build", graph, "--target", "rtx-4090", "--out", tmp_path / "e.plan")
    assert built.exit_code == 0, built.stderr
    return tmp_path / "e.plan"


def device_file(folder: Path, device: Device = RTX_4090, wrapped: bool = True) -> Path:
    path = folder / "device.json"
    path.write_text(json.dumps({"device": device.to_json()} if wrapped else device.to_json()))
    return path


@needs_tensorrt_rtx
def test_the_command_answers_for_another_device_from_what_doctor_wrote_there(engine: Path, tmp_path: Path) -> None:
    version = device_here().runtimes["tensorrt-rtx"]
    there = replace(RTX_4090, runtimes={"tensorrt-rtx": version})
    for wrapped in (True, False):
        shown = invoke("preflight", engine, "--for", device_file(tmp_path, there, wrapped))
        assert (shown.exit_code, shown.stdout.splitlines()[0]) == (0, "e.plan: yes")
    older = device_file(tmp_path, replace(there, compute_capability="8.6"))
    document = json.loads(invoke("preflight", engine, "--for", older, "--json").stdout)
    assert (document["verdict"], document["manifest"]) == ("no", True)
    assert invoke("preflight", engine, "--for", older).exit_code == 1


@needs_tensorrt_rtx
def test_without_its_manifest_the_answer_is_unknown_and_strict_refuses_it(engine: Path, tmp_path: Path) -> None:
    version = device_here().runtimes["tensorrt-rtx"]
    device = device_file(tmp_path, replace(RTX_4090, runtimes={"tensorrt-rtx": version}))
    (tmp_path / "e.plan.manifest.json").unlink()
    assert preflight(engine, device, strict=False).exit_code == 0
    outcome = preflight(engine, device, strict=True)
    assert (outcome.document["verdict"], outcome.exit_code) == ("unknown", 1)


@needs_tensorrt_rtx
def test_an_edited_plan_or_manifest_is_an_integrity_error(engine: Path, tmp_path: Path) -> None:
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"its manifest describes .*; build it again"):
        preflight(engine, None, strict=False)
    engine.write_bytes(whole)
    manifest = tmp_path / "e.plan.manifest.json"
    manifest.write_text(manifest.read_text().replace("urn:edgestill:engine:v1", "urn:other"))
    with pytest.raises(IntegrityError, match=r"is of another kind \(urn:other\)"):
        preflight(engine, None, strict=False)
    manifest.write_text("[]")
    with pytest.raises(IntegrityError, match="is no manifest of an engine"):
        preflight(engine, None, strict=False)


def test_what_is_no_device_or_no_engine_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "e.plan"
    plan.write_bytes(plan_bytes())
    wrong = tmp_path / "device.json"
    for text in ("{", "[]", "{}", '{"device": {"schema_version": 2}}', '{"schema_version": 1, "system": "Linux"}'):
        wrong.write_text(text)
        with pytest.raises(RecipeError, match=r"write it on the device: edgestill doctor --json > device\.json"):
            preflight(plan, wrong, strict=False)
    with pytest.raises(RecipeError, match="there is no such file"):
        preflight(tmp_path / "none.plan", None, strict=False)


def test_doctor_writes_the_device_that_preflight_reads() -> None:
    device = json.loads(json.dumps(doctor().document))
    assert Device.from_json(device) == device_here()


@needs_tensorrt_rtx
def test_the_manifest_is_an_in_toto_statement_of_the_engine_and_what_it_was_made_from(
    engine: Path, tmp_path: Path
) -> None:
    document = json.loads((tmp_path / "e.plan.manifest.json").read_text())
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["subject"][0]["name"] == "e.plan"
    predicate = evidence_beside(engine)
    assert predicate is not None
    assert [each["name"] for each in predicate["made_from"]] == ["graph"]
    assert predicate["settings"]["tf32"] is False
    assert predicate["audit"]["summary"]["products"] == 2
    assert "--computeCapabilities=89" in predicate["trtexec"]


@needs_tensorrt_rtx
def test_two_builds_of_one_graph_have_the_same_manifest_but_for_the_digest(tmp_path: Path) -> None:
    graph = written(tmp_path, PLAIN, weights())
    found = []
    for folder in ("a", "b"):
        to = tmp_path / folder / "e.plan"
        assert invoke("build", graph, "--target", "rtx-4090", "--out", to).exit_code == 0
        document = json.loads(to.with_name("e.plan.manifest.json").read_text())
        del document["subject"], document["predicate"]["bytes"]
        layers = json.dumps(document["predicate"]["audit"].pop("layers"))
        found.append((document, re.sub(r"__mye\d+", "__mye", layers)))  # symbols are numbered anew in each build
    assert found[0] == found[1]


def test_the_line_for_nvidias_tool_has_every_option_of_the_target() -> None:
    options = BuilderOptions(1 << 29, 2, True, "ampere_plus", True, True, 1, True, "a b.cache", True)
    target = Target("orin", "tensorrt", ("fp32",), batch=AxisProfile(1, 2, 4), builder=options)
    shapes = {"x": {"min": (1, 3), "opt": (2, 3), "max": (4, 3)}}
    assert trtexec_line(target, "fp32", "model.onnx", "e.plan", [shapes, shapes]) == (
        "trtexec --onnx=model.onnx --saveEngine=e.plan --skipInference --stronglyTyped --noTF32 "
        "--memPoolSize=workspace:512M --builderOptimizationLevel=2 --hardwareCompatibilityLevel=ampere+ "
        "--useDLACore=1 '--timingCacheFile=a b.cache' --versionCompatible --excludeLeanRuntime --stripWeights --refit "
        "--allowGPUFallback --errorOnTimingCacheMiss "
        "--profile=0 --minShapes=x:1x3 --optShapes=x:2x3 --maxShapes=x:4x3 "
        "--profile=1 --minShapes=x:1x3 --optShapes=x:2x3 --maxShapes=x:4x3"
    )
    assert RTX.runtime == TARGET.runtime
    assert trtexec_line(TARGET, "fp16", "m.onnx", "e.plan", []) == (
        "tensorrt_rtx --onnx=m.onnx --saveEngine=e.plan --skipInference"
    )
