"""The engines that ship: one for each target and precision, with what was really built beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from engines import ENGINES, PRECISIONS
from engines.audit import summarize
from engines.base import BatchProfile, BuildCancelled, BuildFailed, BuiltEngine, Engine, RuntimeMissing, Target
from pipeline import atomic
from pipeline.artifact import Artifact, Artifacts, Engines, Graph, Graphs, Splits
from pipeline.cancellation import Cancellation
from pipeline.context import Context
from pipeline.errors import Cancelled, MachineLacks, NotAcceptable, RecipeError
from pipeline.names import Name, checked_distinct, unknown
from pipeline.progress import Progress
from pipeline.stage import Stage


class Profile(BaseModel):
    """Batch sizes of an engine of dynamic batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: PositiveInt = 1
    opt: PositiveInt = 8
    max: PositiveInt = 64

    @model_validator(mode="after")
    def _ordered(self) -> Profile:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"min {self.min}, opt {self.opt}, max {self.max} must rise in this order")
        return self


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
        for key in ("compute_capabilities", "workspace_mb"):
            if getattr(self, key) and not engine.for_gpu:
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
            batch=BatchProfile(self.batch.min, self.batch.opt, self.batch.max),
            threads=threads,
            workspace_bytes=None if self.workspace_mb is None else self.workspace_mb << 20,
            optional=self.optional,
        )


@final
class Build(Stage):
    """`[build]`."""

    name: ClassVar[str] = "build"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Graph, Graphs)
    makes: ClassVar[type[Artifact]] = Engines
    tools: ClassVar[tuple[str, ...]] = ("onnxruntime", "tensorrt", "tensorrt_rtx")

    targets: Annotated[Mapping[Name, TargetSettings], Field(min_length=1)]

    def int8_families(self) -> dict[str, str]:
        """Target -> placement family of the INT8 graph that it takes, where it asks for one."""
        return {
            name: ENGINES[settings.runtime].family
            for name, settings in self.targets.items()
            if "int8" in settings.precisions
        }

    def surroundings(self) -> Mapping[str, Any]:
        # What becomes possible on this machine later must be built then.
        return {"not_built_here": {name: why for name, why in self._lacks().items() if why is not None}}

    def require(self) -> None:
        for name, settings in self.targets.items():
            if (mistake := ENGINES[settings.runtime].why_refused(settings.target(name, 1))) is not None:
                raise RecipeError(f"[build.targets.{name}] {mistake}")
        for name, why in self._lacks().items():
            if why is not None and not self.targets[name].optional:
                raise MachineLacks(f"[build.targets.{name}] {why} (or set optional = true)")

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        self.require()
        records: list[dict[str, Any]] = []
        audits: dict[str, Any] = {}
        lacks = self._lacks()
        for name, settings in self.targets.items():
            wanted = settings.target(name, context.threads)
            for precision in settings.precisions:
                record = {"target": asdict(wanted), "precision": precision}
                if (why := lacks[name]) is not None:
                    records.append({**record, "state": "not_built", "reason": why})
                    context.say(f"{name} {precision}: not built here: {why}")
                    continue
                built = _build(inputs, wanted, precision, target, context)
                records.append({**record, "state": "built", "reason": "", **engine_record(built, target)})
                audits[f"{name}/{precision}"] = audit_record(built)
                context.say(engine_line(f"{name} {precision}", built))
        atomic.write_json(target / "engines.json", records)
        atomic.write_json(target / "audit.json", audits)
        # What the application must do to an image before the engine, and what its outputs mean.
        for shipped in ("preprocess.json", "classes.json"):
            atomic.write_bytes(target / shipped, inputs[Splits].path(shipped).read_bytes())

    def _lacks(self) -> dict[str, str | None]:
        return {
            name: ENGINES[settings.runtime].why_not_build(settings.target(name, 1))
            for name, settings in self.targets.items()
        }


def _build(inputs: Artifacts, target: Target, precision: str, folder: Path, context: Context) -> BuiltEngine:
    engine = ENGINES[target.runtime]
    graph = inputs[Graph].model if precision == "fp32" else inputs[Graphs].model(precision, engine.family)
    to = folder / target.name / f"{precision}{engine.suffix}"
    to.parent.mkdir(exist_ok=True)
    return built_engine(engine, graph, precision, target, to, context.progress, context.cancellation)


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
    with progress.phase(f"building {target.name} {precision}", 100) as phase:

        def on_step(name: str, done: int, total: int) -> bool:
            phase.reach(min(100, 100 * done // max(total, 1)), name)
            return not cancellation.asked

        try:
            return engine.build(graph, precision, target, to, on_step)
        except BuildCancelled as error:
            cancellation.check()
            raise Cancelled(2) from error
        except BuildFailed as error:
            raise NotAcceptable(f"target {target.name}, {precision}: {error}") from error
        except RuntimeMissing as error:
            raise MachineLacks(f"target {target.name}: {error}") from error


def engine_record(built: BuiltEngine, folder: Path) -> dict[str, Any]:
    """What `engines.json` says of one engine."""
    return {
        "file": built.file.relative_to(folder).as_posix(),
        "bytes": built.bytes,
        "sha256": built.sha256,
        "seconds": round(built.seconds, 3),
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
        f"INT8 operands on {audit.int8} of {audit.products} products"
    )
