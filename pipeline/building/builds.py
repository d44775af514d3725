"""The builds of a target with their progress, and what is said of them."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engines.audit import summarize
from engines.base import BuiltEngine, Engine, StepDone, Target
from engines.build_process import Build, Outcome, built_apart
from engines.errors import BuildCancelled, EngineError
from engines.tensorrt.range_table import RangeTable
from pipeline.building.camera_input import with_camera_input
from pipeline.building.engine_errors import explained
from pipeline.building.older_opset import at_opset
from pipeline.data.preprocess import Preprocess
from pipeline.errors import Cancelled, EdgestillError, NotAcceptable, RecipeError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.tensorrt_ranges import table_of_conversion


@dataclass(frozen=True)
class Wanted:
    """One engine of a target, and the graph that it is built from."""

    precision: str
    graph: Path
    to: Path
    notes: tuple[str, ...] = ()
    """What was done to the graph for the target; they stand in the engine's log."""
    ranges: Path | None = None
    """The table of the graph's ranges, where the target's INT8 is built with one."""
    preprocess: Preprocess | None = None
    """Of the images; its normalization goes into the engine where the target takes bytes."""


def built_engine(
    engine: Engine,
    wanted: Wanted,
    target: Target,
    progress: Progress,
    cancellation: Cancellation,
    memory_limit_bytes: int | None = None,
) -> BuiltEngine:
    """One build with its progress; raises NotAcceptable where the runtime refuses the graph."""
    with progress.phase(f"building {target.name} {wanted.precision}", 100) as phase:
        [found] = built_engines(engine, [wanted], target, phase.reach, cancellation, memory_limit_bytes)
    if isinstance(found, EdgestillError):
        raise found
    return found


def built_engines(
    engine: Engine,
    wanted: Sequence[Wanted],
    target: Target,
    reach: Callable[[int, str], None],
    cancellation: Cancellation,
    memory_limit_bytes: int | None = None,
) -> list[BuiltEngine | EdgestillError]:
    """The engines of a target in order, each built or why not; `reach` is told hundredths of a build, and the phase.

    Raises Cancelled once a signal has come.
    """

    def on_step(index: int, name: str, done: int, total: int) -> bool:
        reach(100 * index + min(100, 100 * done // max(total, 1)), name)
        return not cancellation.asked

    with tempfile.TemporaryDirectory(prefix="edgestill-") as aside:
        found = {each: _for_target(each, target, Path(aside)) for each in wanted}
        able = [each for each in found.values() if isinstance(each, Wanted)]
        try:
            outcomes = iter(_outcomes(engine, able, target, on_step, memory_limit_bytes))
        except BuildCancelled as error:
            cancellation.check()
            raise Cancelled(signal.SIGINT) from error
        return [
            _judged(next(outcomes), each, engine, target) if isinstance(each, Wanted) else each
            for each in found.values()
        ]


def _for_target(wanted: Wanted, target: Target, aside: Path) -> Wanted | EdgestillError:
    """The same engine from a graph that the target's runtime reads, and that takes what the target takes, or why there
    is none."""
    try:
        return _with_input(_at_opset(wanted, target, aside), target, aside)
    except RecipeError as error:
        return RecipeError(f"target {target.name}, {wanted.precision}: {error}")
    except (EdgestillError, EngineError) as error:
        return NotAcceptable(f"target {target.name}, {wanted.precision}: {error}")


def _at_opset(wanted: Wanted, target: Target, aside: Path) -> Wanted:
    if target.opset is None:
        return wanted
    sizes = {name: axis.opt for name, axis in target.axes.items()}
    graph = at_opset(wanted.graph, target.opset, aside / f"{wanted.precision}.onnx", sizes)
    if graph == wanted.graph:
        return wanted
    ranges = None if wanted.ranges is None else _converted_ranges(wanted.ranges, wanted.graph, graph)
    return replace(wanted, graph=graph, notes=(*wanted.notes, f"converted to opset {target.opset}"), ranges=ranges)


def _converted_ranges(table: Path, of: Path, converted: Path) -> Path:
    """The table for the converted graph; raises EngineError where it is not of the graph that was converted."""
    RangeTable.load(table).check_graph(of)
    return table_of_conversion(table, converted, converted.with_suffix(".ranges.json"))


def _with_input(wanted: Wanted, target: Target, aside: Path) -> Wanted:
    if target.input is None:
        return wanted
    if wanted.preprocess is None:
        raise RecipeError(f"input {target.input} is for images, and there is no preprocessing to fold; leave it out")
    graph = with_camera_input(wanted.graph, wanted.preprocess, aside / f"{wanted.precision}.{target.input}.onnx")
    return replace(wanted, graph=graph, notes=(*wanted.notes, f"takes {target.input}: normalization is in the graph"))


def _outcomes(
    engine: Engine,
    wanted: Sequence[Wanted],
    target: Target,
    on_step: Callable[[int, str, int, int], bool],
    memory_limit_bytes: int | None,
) -> list[Outcome]:
    if engine.builds_apart:
        builds = [Build(each.graph, each.precision, each.to, each.ranges) for each in wanted]
        return built_apart(target, builds, on_step, memory_limit_bytes)
    return [_built_here(engine, each, target, partial(on_step, index)) for index, each in enumerate(wanted)]


def _built_here(engine: Engine, wanted: Wanted, target: Target, on_step: StepDone) -> Outcome:
    try:
        return engine.build(wanted.graph, wanted.precision, target, wanted.to, on_step, wanted.ranges)
    except BuildCancelled:
        raise
    except EngineError as error:
        return error


def _judged(outcome: Outcome, wanted: Wanted, engine: Engine, target: Target) -> BuiltEngine | EdgestillError:
    what = f"target {target.name}, {wanted.precision}"
    if isinstance(outcome, EngineError):
        return explained(what, outcome)
    advice = _advice(wanted.precision, engine.family_of(target), target)
    if (problem := _not_as_asked(outcome, wanted.precision, advice)) is not None:
        outcome.file.unlink()
        return NotAcceptable(f"{what}: {wanted.graph}: {problem}")
    return replace(outcome, log=(*wanted.notes, *outcome.log))


def with_timing_cache_in(target: Target, folder: Path) -> Target:
    """The target whose timing cache, where it has one, is a path that does not depend on where we are."""
    if target.builder.timing_cache is None:
        return target
    return replace(target, builder=replace(target.builder, timing_cache=str(folder / target.builder.timing_cache)))


def _advice(precision: str, family: str, target: Target) -> str:
    """What to build for an engine to be what was asked for."""
    if target.takes_ranges(precision):
        return "TensorRT chose float for all of them: see its log, or build the Q/DQ graph"
    if precision == "bf16":
        return "build the bf16.onnx that `edgestill quantize --bf16` writes"
    graph = "graph" if precision != "int8+fp16" else "<family>.int8+fp16.onnx"
    return f"build the {graph} that `edgestill quantize --family {family}` writes"


def _not_as_asked(built: BuiltEngine, precision: str, advice: str) -> str | None:
    """An engine of another precision than its name says helps nobody."""
    audit = summarize(built.layers)
    wanted = {"int8": "INT8", "int8+fp16": "INT8", "fp8": "FP8"}.get(precision)
    found = {"INT8": audit.int8, "FP8": audit.float8}
    if wanted and audit.products and not found[wanted]:
        return (
            f"{precision} was asked for, and none of its {audit.products} convolutions and products takes {wanted} "
            f"operands; {advice}"
        )
    if precision == "bf16" and audit.products and not audit.bfloat16:
        return f"bf16 was asked for, and none of its {audit.products} convolutions and products is in BF16; {advice}"
    if precision == "int8+fp16" and audit.float32 and not audit.float16:
        return (
            f"int8+fp16 was asked for, and {audit.float32} of its {audit.products} products run in FP32, none in FP16; "
            f"{advice}"
        )
    for kind, count in found.items():
        if kind != wanted and count:
            said = f"{precision} was asked for, and {count} of its {audit.products} products run in {kind}"
            return f"{said}; ask for {kind.lower()}"
    return None


def engine_record(built: BuiltEngine, folder: Path) -> dict[str, Any]:
    """What `engines.json` says of one engine: nothing that differs between two builds of the same bytes."""
    return {
        "file": built.file.relative_to(folder).as_posix(),
        "bytes": built.bytes,
        "sha256": built.sha256,
        "versions": dict(built.versions),
        "settings": dict(built.settings),
        "log": list(built.log),
    }


def engine_line(name: str, built: BuiltEngine) -> str:
    """One line for the person who watches."""
    audit = summarize(built.layers)
    ranges = f"; {built.settings['ranges']['said']}" if "ranges" in built.settings else ""
    return (
        f"{name}: {built.bytes / 1e6:.2f} MB in {built.seconds:.1f} s, {audit.kernels} kernels, "
        f"{'FP8' if audit.float8 else 'INT8'} operands on {audit.float8 or audit.int8} of {audit.products} products"
        f"{ranges}"
    )
