"""From what a target asks for to its engine: settings, one build with its progress, and what is said of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from engines import ENGINES, PRECISIONS
from engines.audit import summarize
from engines.base import AxisProfile, BuildCancelled, BuiltEngine, Engine, Target
from pipeline.cancellation import Cancellation
from pipeline.engine_errors import engine_errors_explained
from pipeline.errors import Cancelled, NotAcceptable
from pipeline.interface import BATCH
from pipeline.names import checked_distinct, unknown
from pipeline.progress import Progress


class Profile(BaseModel):
    """Batch sizes of an engine of dynamic batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: PositiveInt = 1
    opt: PositiveInt = 8
    max: PositiveInt = 64

    @model_validator(mode="after")
    def _ordered(self) -> Profile:
        _require_rising(self.min, self.opt, self.max)
        return self


class AxisSizes(BaseModel):
    """Sizes of another dynamic axis: no default would fit every network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: PositiveInt
    opt: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> AxisSizes:
        _require_rising(self.min, self.opt, self.max)
        return self


def _require_rising(least: int, tuned: int, most: int) -> None:
    if not least <= tuned <= most:
        raise ValueError(f"min {least}, opt {tuned}, max {most} must rise in this order")


def _checked_axes(axes: Mapping[str, AxisSizes]) -> Mapping[str, AxisSizes]:
    if BATCH in axes:
        raise ValueError(f"the sizes of '{BATCH}' have a key of their own: {BATCH} = {{ min = …, opt = …, max = … }}")
    return axes


def _checked_capability(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,2}\.[0-9]", value):
        raise ValueError(f"'{value}' is no compute capability; write it with its point, such as 8.6 or 12.0")
    return value


Capability = Annotated[str, AfterValidator(_checked_capability)]


class TargetSettings(BaseModel):
    """`[build.targets.<name>]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    precisions: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(checked_distinct)] = ("fp32",)
    compute_capabilities: Annotated[tuple[Capability, ...], AfterValidator(checked_distinct)] = ()
    """Such as `8.6`; empty: portable (tensorrt-rtx) or the GPU at hand (tensorrt)."""
    batch: Profile = Profile()
    axes: Annotated[Mapping[str, AxisSizes], AfterValidator(_checked_axes)] = {}
    """Of the dynamic axes other than the batch, by name."""
    workspace_mb: PositiveInt | None = None
    """Scratch memory that a TensorRT engine may take, in MiB."""
    optional: bool = False
    """Where this machine cannot build it, the report says why instead of the run stopping."""

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, value: str) -> str:
        if value not in ENGINES:
            raise ValueError(unknown("runtime", value, ENGINES))
        return value

    @field_validator("precisions")
    @classmethod
    def _known_precisions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for precision in value:
            if precision not in PRECISIONS:
                raise ValueError(unknown("precision", precision, PRECISIONS))
        return value

    @model_validator(mode="after")
    def _runtime_takes_it(self) -> TargetSettings:
        engine = ENGINES[self.runtime]
        for precision in self.precisions:
            if precision in engine.never_builds:
                raise ValueError(f"{engine.never_builds[precision]}; take '{precision}' out of precisions")
        given = {"compute_capabilities": self.compute_capabilities, "workspace_mb": self.workspace_mb}
        # A profile has a default, so its value does not tell whether it was asked for.
        for key, asked in {**given, "batch": BATCH in self.model_fields_set, "axes": self.axes}.items():
            if asked and not engine.for_gpu:
                raise ValueError(f"{key} is for GPUs, {self.runtime} runs on a CPU; take it out")
        return self

    def takes_batch(self, size: int) -> bool:
        """Whether its engines run a batch of this size."""
        return not ENGINES[self.runtime].for_gpu or self.batch.min <= size <= self.batch.max

    def target(self, name: str, threads: int) -> Target:
        """What the engine is told."""
        return Target(
            name=name,
            runtime=self.runtime,
            precisions=self.precisions,
            compute_capabilities=self.compute_capabilities,
            batch=_axis_profile(self.batch),
            axes={name: _axis_profile(sizes) for name, sizes in self.axes.items()},
            threads=threads,
            workspace_bytes=None if self.workspace_mb is None else self.workspace_mb << 20,
            optional=self.optional,
        )


def _axis_profile(sizes: Profile | AxisSizes) -> AxisProfile:
    return AxisProfile(sizes.min, sizes.opt, sizes.max)


def missing_profiles(settings: TargetSettings, dynamic: Iterable[str]) -> list[str]:
    """What a target must still say, given the dynamic axes of the export: a sentence for each axis without sizes."""
    if not ENGINES[settings.runtime].for_gpu:
        return []
    return [
        f"axis '{name}' is dynamic ([export] dynamic), and {settings.runtime} has to know its sizes: "
        f"add axes.{name} = {{ min = …, opt = …, max = … }}"
        for name in dynamic
        if name != BATCH and name not in settings.axes
    ]


def unused_profiles(settings: TargetSettings, dynamic: Iterable[str]) -> list[str]:
    """What a target says in vain, given the dynamic axes of the export: a sentence for each axis that is not one."""
    axes = tuple(dynamic)
    return [
        f"axes.{name} is for an axis that [export] leaves fixed; take it out, or add '{name}' to [export] dynamic"
        for name in settings.axes
        if name not in axes
    ]


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
    if (problem := _not_as_asked(built, precision, engine.family)) is not None:
        to.unlink()
        raise NotAcceptable(f"{graph}: {problem}")
    return built


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


def audit_record(built: BuiltEngine) -> dict[str, Any]:
    """What `audit.json` says of one engine: the summary, then every realized layer."""
    return {"summary": summarize(built.layers).to_json(), "layers": [asdict(layer) for layer in built.layers]}


def engine_line(name: str, built: BuiltEngine) -> str:
    """One line for the person who watches."""
    audit = summarize(built.layers)
    return (
        f"{name}: {built.bytes / 1e6:.2f} MB in {built.seconds:.1f} s, {audit.kernels} kernels, "
        f"{'FP8' if audit.float8 else 'INT8'} operands on {audit.float8 or audit.int8} of {audit.products} products"
    )
