"""Every engine of every target of a recipe, side by side where builds do not disturb each other."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from engines import ENGINES
from engines.audit import summarize
from engines.base import FLOAT32_GRAPH, QUANTIZED_PRECISIONS, BuiltEngine, Target
from pipeline.artifact import Artifacts, Graph, Graphs, Splits
from pipeline.building.auditing import Opponent
from pipeline.building.builds import Wanted, built_engines, engine_line, with_timing_cache_in
from pipeline.building.engine_errors import with_source_modules
from pipeline.context import Context
from pipeline.data.preprocess import Preprocess
from pipeline.errors import EdgestillError, NotAcceptable
from pipeline.process.progress import Phase
from pipeline.quantizing.quantized import PLACEMENT
from pipeline.quantizing.tensorrt_ranges import MEASURED_GRAPH, RANGE_TABLE

MOST_PROCESSES = 4
_AT_OPSET = re.compile(r"\S*/edgestill-\w+/(?=\S+\.onnx)")
"""The folder of a graph that was converted for the build."""


@dataclass(frozen=True)
class TargetBuilt:
    """What became of one target."""

    target: Target
    engines: Mapping[str, BuiltEngine | EdgestillError]
    """By precision: the engine, or why there is none."""
    opponent: Opponent | None
    """The FP16 engine beside its quantized ones; None where there are none, or no FP16 on its runtime."""
    slower: frozenset[str] = frozenset()
    """Precisions of a CPU that would be slower than FP32, so that calibration wrote no graph: nothing has failed."""


def graph_of(inputs: Artifacts, target: Target, precision: str) -> Path:
    """The graph that an engine is built from; raises NotAcceptable where calibration could not write it."""
    if precision in FLOAT32_GRAPH:
        return inputs[Graph].model
    if target.takes_ranges(precision):
        return inputs[Graphs].path(MEASURED_GRAPH)
    graph = inputs[Graphs].model(precision, ENGINES[target.runtime].family_of(target))
    if (why := inputs[Graphs].json(PLACEMENT)["missing_graphs"].get(graph.name)) is not None:
        raise NotAcceptable(f"[build.targets.{target.name}] {why}; take '{precision}' out of precisions")
    return graph


def ranges_of(inputs: Artifacts, target: Target, precision: str) -> Path | None:
    """The table of ranges beside that graph; None where the graph says itself what is INT8."""
    return inputs[Graphs].path(RANGE_TABLE) if target.takes_ranges(precision) else None


def images_of(inputs: Artifacts) -> Preprocess | None:
    """How images become inputs; None where the data is no images."""
    document = inputs[Splits].json("preprocess.json")["preprocess"]
    return None if document is None else Preprocess.model_validate(document)


def built_fleet(
    inputs: Artifacts, targets: Sequence[Target], folder: Path, context: Context, memory_limit_bytes: int | None
) -> list[TargetBuilt]:
    """The targets in order, each into its own folder of `folder`.

    Targets whose builds take times on the device are built one after the other, once all others are done. Raises
    NotAcceptable for a graph that is missing, Cancelled once a signal has come; an engine that could not be built is
    part of the result.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="opponents-") as aside:
        plans = [_Plan.of(inputs, target, folder, Path(aside), context) for target in targets]
        total = 100 * sum(len(plan.wanted) for plan in plans)
        with context.progress.phase("building engines", total) as phase:
            meter = _Meter(phase)

            def build(plan: _Plan) -> TargetBuilt:
                return plan.built(meter.part(plan.target.name), context, memory_limit_bytes)

            apart = [plan for plan in plans if not ENGINES[plan.target.runtime].times_tactics]
            found: dict[str, TargetBuilt] = {}
            with ThreadPoolExecutor(min(MOST_PROCESSES, len(os.sched_getaffinity(0)))) as pool:
                for each in pool.map(build, apart):
                    found[each.target.name] = _said(each, context)
            for plan in plans:
                if plan.target.name not in found:
                    found[plan.target.name] = _said(build(plan), context)
    return [found[target.name] for target in targets]


@dataclass(frozen=True)
class _Plan:
    """What is to be built for one target."""

    target: Target
    wanted: tuple[Wanted, ...]
    """Those that ship, then the opponent where nobody asked for FP16."""
    no_opponent: str
    """Why there can be none; empty where there is one, or none is needed."""
    modules: Mapping[str, str]
    """Source module by ONNX node."""
    slower: Mapping[str, NotAcceptable] = field(default_factory=dict)
    """What a CPU would run slower than FP32, and the reason that calibration gave."""

    @classmethod
    def of(cls, inputs: Artifacts, target: Target, folder: Path, aside: Path, context: Context) -> _Plan:
        engine = ENGINES[target.runtime]
        to = folder / target.name
        to.mkdir(exist_ok=True)
        images = images_of(inputs) if target.input else None
        wanted, slower = [], {}
        for precision in target.precisions:
            try:
                graph = graph_of(inputs, target, precision)
            except NotAcceptable as error:
                if engine.for_gpu:
                    raise
                slower[precision] = error
                continue
            ranges = ranges_of(inputs, target, precision)
            to_file = to / f"{precision}{engine.suffix}"
            wanted.append(Wanted(precision, graph, to_file, ranges=ranges, preprocess=images))
        no_opponent, modules = "", inputs[Graph].json("modules.json")
        if _needs_opponent(target):
            try:
                beside = aside / f"{target.name}{engine.suffix}"
                wanted.append(Wanted("fp16", graph_of(inputs, target, "fp16"), beside, preprocess=images))
            except NotAcceptable as error:
                no_opponent = str(error)
        return cls(with_timing_cache_in(target, context.recipe_folder), tuple(wanted), no_opponent, modules, slower)

    def built(self, reach: Callable[[int, str], None], context: Context, memory_limit_bytes: int | None) -> TargetBuilt:
        engine = ENGINES[self.target.runtime]
        outcomes = built_engines(engine, self.wanted, self.target, reach, context.cancellation, memory_limit_bytes)
        reach(100 * len(self.wanted), "")
        outcomes = [self._with_modules(each) for each in outcomes]
        found = dict(zip((each.precision for each in self.wanted), outcomes, strict=True))
        shipped = {each: self.slower[each] if each in self.slower else found[each] for each in self.target.precisions}
        return TargetBuilt(self.target, shipped, self._opponent(found.get("fp16")), frozenset(self.slower))

    def _with_modules(self, outcome: BuiltEngine | EdgestillError) -> BuiltEngine | EdgestillError:
        if isinstance(outcome, BuiltEngine):
            return outcome
        message = _AT_OPSET.sub("", str(outcome))
        for folder in {each.graph.parent for each in self.wanted}:  # a report is read elsewhere
            message = message.replace(f"{folder}/", "")
        told = type(outcome)(with_source_modules(message, self.modules))
        told.__cause__ = outcome.__cause__
        return told

    def _opponent(self, half: BuiltEngine | EdgestillError | None) -> Opponent | None:
        if isinstance(half, BuiltEngine):
            return Opponent(summarize(half.layers))
        reason = str(half) if half is not None else self.no_opponent
        return Opponent(reason=reason) if reason else None


def _needs_opponent(target: Target) -> bool:
    quantized = set(target.precisions) & set(QUANTIZED_PRECISIONS)
    return bool(quantized) and ENGINES[target.runtime].for_gpu and "fp16" not in target.precisions


def _said(built: TargetBuilt, context: Context) -> TargetBuilt:
    for precision, engine in built.engines.items():
        name = f"{built.target.name} {precision}"
        context.say(engine_line(name, engine) if isinstance(engine, BuiltEngine) else f"{name}: not built: {engine}")
    if built.opponent is not None and built.opponent.audit is None:
        context.say(f"{built.target.name}: there is no FP16 engine to compare with: {built.opponent.reason}")
    return built


@final
@dataclass
class _Meter:
    """One phase for builds that run side by side."""

    phase: Phase
    done: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def part(self, name: str) -> Callable[[int, str], None]:
        """The share of one target."""

        def reach(done: int, figures: str) -> None:
            with self.lock:
                self.done[name] = done
                self.phase.reach(sum(self.done.values()), f"{name} {figures}".rstrip())

        return reach
