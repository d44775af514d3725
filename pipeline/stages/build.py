"""The engines that ship: one for each target and precision, with what was really built beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

from pydantic import AfterValidator, Field, model_validator

from engines import ENGINES
from engines.audit import summarize
from engines.base import FLOAT32_GRAPH, QUANTIZED_PRECISIONS, BuiltEngine, Target, sha256_of_file
from engines.cuda import compute_capability, driver_version
from pipeline import atomic
from pipeline.artifact import Artifact, Artifacts, Engines, Graph, Graphs, Splits, Student, Teacher
from pipeline.auditing import AuditGates, Opponent, audit_failures, audit_record
from pipeline.building import built_engine, engine_line, engine_record, with_timing_cache_in
from pipeline.context import Context
from pipeline.errors import MachineLacks, NotAcceptable, RecipeError
from pipeline.evidence import Origin, device_here, write_evidence
from pipeline.manifest import LOG, MANIFEST, read_manifest
from pipeline.names import Name
from pipeline.quantization import PLACEMENT
from pipeline.stage import Stage
from pipeline.target_settings import TargetSettings
from pipeline.workspace import CHECKPOINTS

ENGINES_FILE, AUDIT_FILE = "engines.json", "audit.json"
SHIPPED = ("inputs.json", "preprocess.json", "classes.json")
"""What the engine takes, what the application must do to an image before it, and what the outputs mean."""

# Each target has a folder of its name beside these.
_TAKEN = (CHECKPOINTS, ENGINES_FILE, AUDIT_FILE, *SHIPPED, MANIFEST, LOG)


def _checked_target_name(name: str) -> str:
    if name in _TAKEN:
        raise ValueError(f"'{name}' names something else in the folder of the engines; call the target otherwise")
    return name


TargetName = Annotated[Name, AfterValidator(_checked_target_name)]


@final
class Build(Stage):
    """`[build]`."""

    name: ClassVar[str] = "build"
    version: ClassVar[int] = 6
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Teacher, Student, Graph, Graphs)
    makes: ClassVar[type[Artifact]] = Engines
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "tensorrt", "tensorrt_rtx")

    targets: Annotated[Mapping[TargetName, TargetSettings], Field(min_length=1)]
    audit: AuditGates = AuditGates()

    @model_validator(mode="after")
    def _turing_takes_no_float32(self) -> Build:
        for name, settings in self.targets.items():
            turing = settings.runtime == "tensorrt-rtx" and "7.5" in settings.compute_capabilities
            if turing and "int8" in settings.precisions:
                raise ValueError(
                    f"targets.{name}: the INT8 graphs of [calibrate] keep FP32 between their products, and "
                    "TensorRT-RTX takes no FP32 for compute capability 7.5; take 'int8' or '7.5' out"
                )
        return self

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:
        """The timing caches that reproducible targets take every tactic from."""
        names = {each.timing_cache for each in self.targets.values() if each.reproducible and each.timing_cache}
        for name in sorted(names):
            if not (recipe_folder / name).is_file():
                raise RecipeError(
                    f"timing_cache '{name}': there is no file {recipe_folder / name}, and a reproducible build takes "
                    "every tactic from it; paths are relative to the recipe"
                )
        return {name: recipe_folder / name for name in names}

    def quantized_families(self) -> dict[str, str]:
        """Target -> placement family of the INT8 or FP8 graphs that it takes, where it asks for one."""
        return {
            name: ENGINES[settings.runtime].family_of(settings.target(name, 1))
            for name, settings in self.targets.items()
            if set(QUANTIZED_PRECISIONS) & set(settings.precisions)
        }

    def surroundings(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            # What becomes possible on this machine later must be built then.
            "not_built_here": {name: why for name, why in self._lacks().items() if why is not None},
            # `tools` finds onnxruntime under one of its distributions' names alone.
            "onnxruntime": ENGINES["onnxruntime"].versions(),
        }
        if any(settings.runtime == "tensorrt" for settings in self.targets.values()):
            # Its engines are made for the GPU at hand.
            found["gpu"] = {"compute_capability": compute_capability(), "driver": driver_version()}
        return found

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
        failures: list[str] = []
        lacks, device = self._lacks(), device_here()
        for name, settings in self.targets.items():
            wanted = settings.target(name, context.threads)
            if (why := lacks[name]) is not None:
                for precision in settings.precisions:
                    records.append(_record(wanted, precision, "not_built", why))
                    context.say(f"{name} {precision}: not built here: {why}")
                continue
            built = {precision: _build(inputs, wanted, precision, target, context) for precision in settings.precisions}
            opponent = _opponent(built, inputs, wanted, target, context)
            for precision, engine in built.items():
                records.append({**_record(wanted, precision, "built"), **engine_record(engine, target)})
                audits[f"{name}/{precision}"] = audit = audit_record(engine, precision, wanted, opponent)
                write_evidence(engine, precision, wanted, _origin(inputs, wanted, precision), device, audit)
                context.say(engine_line(f"{name} {precision}", engine))
            failures += self._failures(name, built, opponent)
        if failures:
            raise NotAcceptable("\n".join(failures))
        atomic.write_json(target / ENGINES_FILE, records)
        atomic.write_json(target / AUDIT_FILE, audits)
        for shipped in SHIPPED:
            atomic.write_bytes(target / shipped, inputs[Splits].path(shipped).read_bytes())

    def _failures(self, name: str, built: Mapping[str, BuiltEngine], opponent: Opponent | None) -> list[str]:
        return [
            f"[build.audit] {name} {precision}: {failure}"
            for precision, engine in built.items()
            if precision in QUANTIZED_PRECISIONS
            for failure in audit_failures(self.audit, summarize(engine.layers), opponent)
        ]

    def _lacks(self) -> dict[str, str | None]:
        return {
            name: ENGINES[settings.runtime].why_not_build(settings.target(name, 1))
            for name, settings in self.targets.items()
        }


def _record(target: Target, precision: str, state: str, reason: str = "") -> dict[str, Any]:
    return {"target": asdict(target), "precision": precision, "state": state, "reason": reason}


def _opponent(
    built: Mapping[str, BuiltEngine], inputs: Artifacts, target: Target, folder: Path, context: Context
) -> Opponent | None:
    """The FP16 engine of the target, built for its audit alone where the recipe does not ask for it."""
    if not ENGINES[target.runtime].for_gpu or not set(built) & set(QUANTIZED_PRECISIONS):
        return None
    if "fp16" in built:
        return Opponent(summarize(built["fp16"].layers))
    with tempfile.TemporaryDirectory(dir=folder, prefix="opponent-") as aside:
        try:
            return Opponent(summarize(_build(inputs, target, "fp16", Path(aside), context).layers))
        except NotAcceptable as error:
            context.say(f"{target.name}: there is no FP16 engine to compare with: {error}")
            return Opponent(reason=str(error))


def _graph(inputs: Artifacts, target: Target, precision: str) -> Path:
    if precision in FLOAT32_GRAPH:
        return inputs[Graph].model
    return inputs[Graphs].model(precision, ENGINES[target.runtime].family_of(target))


def _origin(inputs: Artifacts, target: Target, precision: str) -> Origin:
    """Of the graph itself, and of every stage's result that it came from."""
    graph = _graph(inputs, target, precision)
    kinds = {"data": Splits, "teacher": Teacher, "student": Student, "export": Graph, "calibration": Graphs}
    stages = {name: read_manifest(inputs[kind].folder).digest for name, kind in kinds.items()}
    return Origin(graph.name, {"graph": sha256_of_file(graph), **stages})


def _build(inputs: Artifacts, target: Target, precision: str, folder: Path, context: Context) -> BuiltEngine:
    engine, graph = ENGINES[target.runtime], _graph(inputs, target, precision)
    missing = inputs[Graphs].json(PLACEMENT)["missing_graphs"]
    if (why := missing.get(graph.name)) is not None:
        raise NotAcceptable(f"[build.targets.{target.name}] {why}; take '{precision}' out of precisions")
    to = folder / target.name / f"{precision}{engine.suffix}"
    to.parent.mkdir(exist_ok=True)
    placed = with_timing_cache_in(target, context.recipe_folder)
    return built_engine(engine, graph, precision, placed, to, context.progress, context.cancellation)
