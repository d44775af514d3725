"""Builds in a process of their own, and targets that fail without taking the others along."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from small_training import context_in
from tensorrt_graphs import PLAIN, TARGET, needs_tensorrt_rtx, weights, written

from engines import ENGINES, build_child
from engines.base import BuiltEngine, Target
from engines.build_process import Build, OutOfMemory, built_apart
from engines.errors import BuildCancelled, BuildFailed
from pipeline.artifact import Artifacts, Graph, Graphs
from pipeline.building.fleet import built_fleet
from pipeline.errors import NotAcceptable, ResourceExhausted
from pipeline.reporting.result import EngineResult
from pipeline.results.gates import built_gate

pytestmark = needs_tensorrt_rtx


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return written(tmp_path, PLAIN, weights())


def builds(graph: Path, folder: Path, count: int = 2) -> list[Build]:
    return [Build(graph, "fp32", folder / f"{number}.plan") for number in range(count)]


def children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if b"engines.build_child" in words and parent == os.getpid():
                found.append(int(entry.name))
    return found


def test_engines_come_back_whole_from_their_process(graph: Path, tmp_path: Path) -> None:
    told: set[int] = set()

    def tell(index: int, *_: object) -> bool:
        told.add(index)
        return True

    first, second = built_apart(TARGET, builds(graph, tmp_path), tell)
    assert isinstance(first, BuiltEngine)
    assert isinstance(second, BuiltEngine)
    assert first.file.stat().st_size == first.bytes
    assert [layer.products for layer in first.layers if layer.kind == "convolution"] == [("conv1",), ("conv2",)]
    assert first.settings["tf32"] is False
    assert first.peak_memory_bytes is not None
    assert first.peak_memory_bytes > first.bytes
    assert told == {0, 1}
    assert children() == []


def test_a_graph_that_is_refused_fails_alone_and_with_its_own_words(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    model.graph.node[0].op_type = "Blend"
    onnx.save(model, tmp_path / "bad.onnx")
    bad, good = built_apart(
        TARGET, [Build(tmp_path / "bad.onnx", "fp32", tmp_path / "b.plan"), *builds(graph, tmp_path, 1)]
    )
    assert isinstance(bad, BuildFailed)
    assert "node 'conv1' (Blend)" in str(bad)
    assert isinstance(good, BuiltEngine)


def test_a_process_that_aborts_fails_its_build_and_the_next_is_built_in_another(graph: Path, tmp_path: Path) -> None:
    aborted: list[int] = []

    def abort_the_first(index: int, phase: str, done: int, total: int) -> bool:
        del done, total
        if index == 0 and phase != "start" and not aborted:
            (child,) = children()
            aborted.append(child)
            os.kill(child, signal.SIGABRT)
        return True

    first, second = built_apart(TARGET, builds(graph, tmp_path), abort_the_first)
    assert isinstance(first, BuildFailed)
    assert f"{graph}: the process that builds fp32 was ended by SIGABRT: " in str(first)
    assert isinstance(second, BuiltEngine)
    assert [path.name for path in tmp_path.glob("*0.plan*")] == []


def test_a_build_that_takes_too_much_memory_is_ended_and_says_the_limit(graph: Path, tmp_path: Path) -> None:
    found = built_apart(TARGET, builds(graph, tmp_path, 1), memory_limit_bytes=20 << 20)
    assert isinstance(found[0], OutOfMemory)
    assert "MiB and memory_limit_mb allows 20; raise it" in str(found[0])
    assert children() == []


def test_a_cancelled_build_leaves_no_process_and_no_file(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildCancelled, match="the build was cancelled; nothing was written"):
        built_apart(TARGET, builds(graph, tmp_path), lambda index, *_: index == 0)
    assert children() == []
    assert not list(tmp_path.glob("*1.plan*"))


def test_what_a_callback_raises_ends_the_process_too(graph: Path, tmp_path: Path) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built_apart(TARGET, builds(graph, tmp_path), interrupted)
    assert children() == []


def test_a_child_whose_parent_is_gone_ends_its_build(tmp_path: Path) -> None:
    with (tmp_path / "pipe").open("w") as pipe:
        assert build_child.reporting(pipe, os.getppid())("phase", 1, 2) is True
        assert build_child.reporting(pipe, parent=1 << 22)("phase", 1, 2) is False


def inputs_in(folder: Path, graph: Path) -> Artifacts:
    (folder / "model.onnx").write_bytes(graph.read_bytes())
    (folder / "placement.json").write_text(json.dumps({"missing_graphs": {}}))
    (folder / "fp16.onnx").write_bytes(b"no graph")
    (folder / "modules.json").write_text(json.dumps({"conv1": "stages.0.conv1"}))
    return Artifacts([Graph(folder), Graphs(folder)])


def test_a_target_that_fails_is_told_and_the_others_are_built(graph: Path, tmp_path: Path) -> None:
    inputs, to = inputs_in(tmp_path, graph), tmp_path / "engines"
    to.mkdir()
    half = replace(TARGET, name="half", precisions=("fp16", "fp32"))
    fleet = built_fleet(inputs, [half, Target("cpu", "onnxruntime")], to, context_in(tmp_path), None)
    assert [each.target.name for each in fleet] == ["half", "cpu"]
    assert isinstance(fleet[0].engines["fp16"], NotAcceptable)
    assert str(fleet[0].engines["fp16"]).startswith("target half, fp16: fp16.onnx: ")  # no path: a report is published
    assert isinstance(fleet[0].engines["fp32"], BuiltEngine)
    assert isinstance(fleet[1].engines["fp32"], BuiltEngine)
    assert sorted(path.relative_to(to).as_posix() for path in to.rglob("*.*")) == ["cpu/fp32.onnx", "half/fp32.plan"]


def test_int8_that_would_be_slower_on_a_cpu_is_not_built_and_has_not_failed(graph: Path, tmp_path: Path) -> None:
    inputs, to = inputs_in(tmp_path, graph), tmp_path / "engines"
    to.mkdir()
    family = ENGINES["onnxruntime"].family
    why = f"no {family} INT8 graph, because FP32 is faster"
    (tmp_path / "placement.json").write_text(json.dumps({"missing_graphs": {f"{family}.int8.onnx": why}}))
    [found] = built_fleet(inputs, [Target("cpu", "onnxruntime", ("fp32", "int8"))], to, context_in(tmp_path), None)
    assert isinstance(found.engines["fp32"], BuiltEngine)
    assert why in str(found.engines["int8"])
    assert found.slower == {"int8"}


def test_a_node_that_is_refused_is_told_with_the_module_that_it_came_from(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    model.graph.node[0].op_type = "Blend"
    onnx.save(model, graph)
    inputs, to = inputs_in(tmp_path, graph), tmp_path / "engines"
    to.mkdir()
    [found] = built_fleet(inputs, [TARGET], to, context_in(tmp_path), None)
    assert "node 'conv1' of module 'stages.0.conv1' (Blend): " in str(found.engines["fp32"])


def test_a_build_beyond_its_memory_is_a_resource_that_is_exhausted(graph: Path, tmp_path: Path) -> None:
    inputs, to = inputs_in(tmp_path, graph), tmp_path / "engines"
    to.mkdir()
    [found] = built_fleet(inputs, [TARGET], to, context_in(tmp_path), 20 << 20)
    assert isinstance(found.engines["fp32"], ResourceExhausted)


def test_an_engine_that_had_to_be_built_and_was_not_fails_a_gate_of_its_own() -> None:
    built = EngineResult(target="cpu", runtime="onnxruntime", precision="fp32", state="measured")
    lacking = EngineResult(target="h100", runtime="tensorrt", precision="fp16", state="not_built", reason="no GPU")
    failed = EngineResult(
        target="rtx", runtime="tensorrt-rtx", precision="int8", state="not_built", reason="it aborted", failed=True
    )
    assert list(built_gate([built, lacking])) == []
    [gate] = built_gate([built, lacking, failed])
    assert (gate.state, gate.subject, gate.detail) == ("failed", "rtx int8", "it aborted; --force build tries again")
    assert (gate.value, gate.limit) == (1, 2)
