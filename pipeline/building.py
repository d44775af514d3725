"""One build of one target with its progress, and what is said of it."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.audit import summarize
from engines.base import BuildCancelled, BuiltEngine, Engine, Target
from pipeline.cancellation import Cancellation
from pipeline.engine_errors import engine_errors_explained
from pipeline.errors import Cancelled, NotAcceptable
from pipeline.progress import Progress


def built_engine(
    engine: Engine,
    graph: Path,
    precision: str,
    target: Target,
    to: Path,
    progress: Progress,
    cancellation: Cancellation,
) -> BuiltEngine:
    """One build with its progress; raises NotAcceptable where the runtime refuses the graph."""
    _require_opset(graph, target)
    explained = engine_errors_explained(f"target {target.name}, {precision}")
    with explained, progress.phase(f"building {target.name} {precision}", 100) as phase:

        def on_step(name: str, done: int, total: int) -> bool:
            phase.reach(min(100, 100 * done // max(total, 1)), name)
            return not cancellation.asked

        try:
            built = engine.build(graph, precision, target, to, on_step)
        except BuildCancelled as error:
            cancellation.check()
            raise Cancelled(signal.SIGINT) from error
    if (problem := _not_as_asked(built, precision, engine.family_of(target))) is not None:
        to.unlink()
        raise NotAcceptable(f"{graph}: {problem}")
    return built


def with_timing_cache_in(target: Target, folder: Path) -> Target:
    """The target whose timing cache, where it has one, is a path that does not depend on where we are."""
    if target.builder.timing_cache is None:
        return target
    return replace(target, builder=replace(target.builder, timing_cache=str(folder / target.builder.timing_cache)))


def _require_opset(graph: Path, target: Target) -> None:
    """Raises NotAcceptable where the graph is newer than what the target's runtime reads."""
    if target.opset is None:
        return
    import onnx

    found = next(
        (each.version for each in onnx.load(graph, load_external_data=False).opset_import if not each.domain), 0
    )
    if found > target.opset:
        raise NotAcceptable(
            f"{graph}: is of opset {found}, and target {target.name} reads up to {target.opset}; "
            f"give it a graph of opset {target.opset} or older, or raise its opset"
        )


def _not_as_asked(built: BuiltEngine, precision: str, family: str) -> str | None:
    """An engine of another precision than its name says helps nobody."""
    audit = summarize(built.layers)
    wanted = {"int8": "INT8", "int8+fp16": "INT8", "fp8": "FP8"}.get(precision)
    found = {"INT8": audit.int8, "FP8": audit.float8}
    if wanted and audit.products and not found[wanted]:
        return (
            f"{precision} was asked for, and none of its {audit.products} convolutions and products takes {wanted} "
            f"operands; build the graph that `edgestill quantize --family {family}` writes"
        )
    if precision == "int8+fp16" and audit.float32 and not audit.float16:
        return (
            f"int8+fp16 was asked for, and {audit.float32} of its {audit.products} products run in FP32, none in FP16; "
            f"build the <family>.int8+fp16.onnx that `edgestill quantize --family {family}` writes"
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
    return (
        f"{name}: {built.bytes / 1e6:.2f} MB in {built.seconds:.1f} s, {audit.kernels} kernels, "
        f"{'FP8' if audit.float8 else 'INT8'} operands on {audit.float8 or audit.int8} of {audit.products} products"
    )
