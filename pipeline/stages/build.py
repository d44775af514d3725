"""The engines that ship: one for each target and precision, with what was really built beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from engines import ENGINES
from engines.audit import summarize
from engines.base import QUANTIZED_PRECISIONS, UINT8_NHWC, BuiltEngine, Target
from engines.cuda import compute_capability, driver_version
from engines.files import sha256_of_file
from pipeline.artifact import Artifact, Artifacts, Engines, Graph, Graphs, Splits, Student, Teacher
from pipeline.building.auditing import AuditGates, audit_failures, audit_record
from pipeline.building.builds import engine_record
from pipeline.building.camera_input import fed_as_bytes
from pipeline.building.evidence import Origin, device_here, write_evidence
from pipeline.building.fleet import TargetBuilt, built_fleet, graph_of, images_of, ranges_of
from pipeline.building.fleet_parity import compared
from pipeline.building.target_settings import TargetSettings
from pipeline.context import Context
from pipeline.data.dataset import open_dataset, read_interface
from pipeline.errors import EdgestillError, MachineLacks, NotAcceptable, RecipeError
from pipeline.files import atomic
from pipeline.files.manifest import LOG, MANIFEST, read_manifest
from pipeline.files.workspace import CHECKPOINTS
from pipeline.names import Name
from pipeline.stage import Stage

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
    version: ClassVar[int] = 12
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Teacher, Student, Graph, Graphs)
    makes: ClassVar[type[Artifact]] = Engines
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "tensorrt", "tensorrt_rtx")

    targets: Annotated[Mapping[TargetName, TargetSettings], Field(min_length=1)]
    audit: AuditGates = AuditGates()
    memory_limit_mb: PositiveInt | None = None
    """Of the process of each target's TensorRT builds, in MiB."""

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

    def rehearse(self, made: Artifacts, context: Context) -> None:
        """That the data is images of bytes, where a target takes such."""
        asking = [name for name, settings in self.targets.items() if settings.input == UINT8_NHWC]
        if not asking:
            return
        if not read_interface(made[Splits], context).is_one_image():
            raise RecipeError(
                f"[build.targets.{asking[0]}] input = '{UINT8_NHWC}' is for images, and this data has other inputs; "
                "leave it out"
            )
        dataset = open_dataset(made[Splits], context)
        dataset.bytes_of(dataset.indices("calibration")[:1])

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        self.require()
        lacks, device = self._lacks(), device_here()
        targets = [settings.target(name, context.threads) for name, settings in self.targets.items()]
        able = [each for each in targets if lacks[each.name] is None]
        limit = None if self.memory_limit_mb is None else self.memory_limit_mb << 20
        beside_graphs = compared(built_fleet(inputs, able, target, context, limit), inputs, context)
        built = {each.target.name: each for each in beside_graphs.fleet}
        records: list[dict[str, Any]] = []
        audits: dict[str, Any] = {}
        for each in targets:
            if (why := lacks[each.name]) is not None:
                records += [_record(each, precision, "not_built", why) for precision in each.precisions]
                context.say(f"{each.name}: not built here: {why}")
                continue
            found = built[each.name]
            for precision, engine in found.engines.items():
                if isinstance(engine, EdgestillError):
                    failed = not each.optional and precision not in found.slower
                    records.append(_record(each, precision, "not_built", str(engine), failed=failed))
                    continue
                parity = beside_graphs.parity[each.name, precision].to_json()
                record = {**_record(each, precision, "built"), **engine_record(engine, target), "parity": parity}
                records.append(record)
                audits[f"{each.name}/{precision}"] = audit = audit_record(engine, precision, each, found.opponent)
                origin, takes = _origin(inputs, each, precision), _takes(inputs, each)
                write_evidence(engine, precision, each, origin, device, audit, takes, parity)
        self._require_acceptable(built.values(), records)
        atomic.write_json(target / ENGINES_FILE, records)
        atomic.write_json(target / AUDIT_FILE, audits)
        for each in able:
            _ship_camera_input(inputs, each, target / each.name)
        for shipped in SHIPPED:
            atomic.write_bytes(target / shipped, inputs[Splits].path(shipped).read_bytes())

    def _require_acceptable(self, fleet: Iterable[TargetBuilt], records: Sequence[Mapping[str, Any]]) -> None:
        """Raises NotAcceptable where an audit gate fails, or where not one engine was built though some could be."""
        failures = [failure for each in fleet for failure in self._failures(each)]
        if failures:
            raise NotAcceptable("\n".join(failures))
        failed = [record["reason"] for record in records if record["failed"]]
        if failed and not any(record["state"] == "built" for record in records):
            raise NotAcceptable("\n".join(failed))

    def _failures(self, built: TargetBuilt) -> list[str]:
        return [
            f"[build.audit] {built.target.name} {precision}: {failure}"
            for precision, engine in built.engines.items()
            if precision in QUANTIZED_PRECISIONS and isinstance(engine, BuiltEngine)
            for failure in audit_failures(self.audit, summarize(engine.layers), built.opponent)
        ]

    def _lacks(self) -> dict[str, str | None]:
        return {
            name: ENGINES[settings.runtime].why_not_build(settings.target(name, 1))
            for name, settings in self.targets.items()
        }


def _record(target: Target, precision: str, state: str, reason: str = "", failed: bool = False) -> dict[str, Any]:
    return {"target": asdict(target), "precision": precision, "state": state, "reason": reason, "failed": failed}


def _takes(inputs: Artifacts, target: Target) -> dict[str, Any] | None:
    images = images_of(inputs) if target.input == UINT8_NHWC else None
    return None if images is None else fed_as_bytes(inputs[Graph].model, images)


def _ship_camera_input(inputs: Artifacts, target: Target, folder: Path) -> None:
    """Beside engines that take bytes: what they take and what remains to be done, in the form of the shipped files."""
    images = images_of(inputs) if target.input == UINT8_NHWC else None
    if images is None:
        return
    [spec] = inputs[Splits].json("inputs.json")
    channels, height, width = spec["shape"]
    spec |= {"dtype": "uint8", "shape": [height, width, channels], "axes": ["height", "width", "channels"]}
    remaining = images.before_bytes().model_dump(mode="json")
    atomic.write_json(folder / "inputs.json", [spec])
    atomic.write_json(folder / "preprocess.json", {"preprocess": remaining, "shape": spec["shape"], "dtype": "uint8"})


def _origin(inputs: Artifacts, target: Target, precision: str) -> Origin:
    """Of the graph itself, and of every stage's result that it came from."""
    graph = graph_of(inputs, target, precision)
    kinds = {"data": Splits, "teacher": Teacher, "student": Student, "export": Graph, "calibration": Graphs}
    stages = {name: read_manifest(inputs[kind].folder).digest for name, kind in kinds.items()}
    table = ranges_of(inputs, target, precision)
    ranges = {} if table is None else {"ranges": sha256_of_file(table)}
    return Origin(graph.name, {"graph": sha256_of_file(graph), **ranges, **stages})
