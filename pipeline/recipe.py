"""TOML -> stages. Every mistake a user can make in a recipe is caught here, before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.building.target_presets import with_presets
from pipeline.building.target_settings import missing_profiles, unused_profiles
from pipeline.errors import RecipeError
from pipeline.mistakes import explained, settings_from_toml
from pipeline.names import Name, nearest, unknown
from pipeline.quantizing.settings import check_opset_beside_caches
from pipeline.results.gates import Gates
from pipeline.stage import Stage
from pipeline.stages import STAGES
from pipeline.stages.build import Build
from pipeline.stages.calibrate import Calibrate
from pipeline.stages.export import Export
from pipeline.stages.measure import Measure
from pipeline.stages.report import WriteReport
from pipeline.tasks import task_named
from pipeline.tasks.task import Task
from pipeline.userfile import user_file

GATES = "gates"
"""The section that the report stage reads: what decides the exit code."""

Kind = TypeVar("Kind", bound=Stage)


class Header(BaseModel):
    """What stands above the sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    name: Name
    task: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1


@dataclass(frozen=True)
class Recipe:
    """One valid recipe."""

    name: str
    task: Task
    task_name: str
    """As the recipe gives it: built in, or `tasks.py:MyTask`."""
    seed: int
    threads: int
    stages: tuple[Stage, ...]
    folder: Path
    """What user files' paths are relative to."""
    source: str
    """The built-in name, or the name of the file: where it lies is nobody else's business."""

    def task_files(self) -> dict[str, Path]:
        """The user's file, where the task is one of the user's."""
        return {self.task_name: user_file(self.task_name, self.folder, "task")} if ":" in self.task_name else {}

    def stage(self, name: str) -> Stage | None:
        """The stage of a name, where the recipe has it."""
        return next((stage for stage in self.stages if stage.name == name), None)


def built_in_recipes() -> dict[str, str]:
    """Name -> text of the recipes that ship with the package."""
    files = resources.files("pipeline.recipes").iterdir()
    return {file.name.removesuffix(".toml"): file.read_text("utf-8") for file in files if file.name.endswith(".toml")}


def load_recipe(name_or_path: str) -> Recipe:
    """A built-in name, or a path ending in .toml; raises RecipeError with every mistake found."""
    if not name_or_path.endswith(".toml"):
        texts = built_in_recipes()
        if name_or_path not in texts:
            hint = nearest(name_or_path, texts) or ";"
            raise RecipeError(
                f"there is no built-in recipe '{name_or_path}'{hint} built in: {', '.join(sorted(texts))}; "
                "a file of your own ends in .toml"
            )
        return recipe_from_text(texts[name_or_path], Path.cwd(), name_or_path)
    path = Path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from error
    return recipe_from_text(text, path.resolve().parent, str(path))


def recipe_from_text(text: str, folder: Path, where: str) -> Recipe:
    """Raises RecipeError with every mistake found, each with its section and what to write instead."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: Python's own limits too
        raise RecipeError(f"{where}: is not TOML: {error}") from error
    mistakes: list[str] = []
    header = _header(document, mistakes)
    stages = _stages(document, mistakes)
    task = _task(header, folder, mistakes)
    if mistakes or header is None or task is None:
        raise RecipeError("\n".join(f"{where}: {mistake}" for mistake in mistakes))
    recipe = Recipe(header.name, task, header.task, header.seed, header.threads, stages, folder, Path(where).name)
    if mistakes := list(_missing_files(stages, folder)):
        raise RecipeError("\n".join(f"{where}: {mistake}" for mistake in mistakes))
    return recipe


def _header(document: Mapping[str, Any], mistakes: list[str]) -> Header | None:
    sections = [_section(stage) for stage in STAGES]
    given = {name: value for name, value in document.items() if name not in sections}
    for name in [name for name in given if name not in Header.model_fields]:
        mistakes.append(
            unknown("section" if isinstance(given.pop(name), dict) else "key", name, [*Header.model_fields, *sections])
        )
    try:
        header = settings_from_toml(Header, given)
    except ValidationError as error:
        mistakes.extend(explained(error, "", Header))
        return None
    return header


def _task(header: Header | None, folder: Path, mistakes: list[str]) -> Task | None:
    if header is None:
        return None
    try:
        return task_named(header.task, folder)
    except RecipeError as error:
        mistakes.append(str(error))
        return None


def _stages(document: Mapping[str, Any], mistakes: list[str]) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for kind in STAGES:
        section = _section(kind)
        # The report has no settings but its gates: it closes every recipe that measures.
        if section not in document and not (kind is WriteReport and Measure.name in document):
            continue
        value = with_presets(document[section]) if kind is Build else document.get(section, {})
        model: type[BaseModel] = Gates if kind is WriteReport else kind
        try:
            settings = settings_from_toml(model, value)
            stages.append(WriteReport(gates=settings) if isinstance(settings, Gates) else cast("Stage", settings))
        except ValidationError as error:
            mistakes.extend(explained(error, section, model))
    if not mistakes:
        mistakes.extend(_missing_stages(stages))
    if not mistakes:
        mistakes.extend(_contradictions(stages))
    return tuple(stages)


def _section(kind: type[Stage]) -> str:
    return GATES if kind is WriteReport else kind.name


def _missing_stages(stages: Sequence[Stage]) -> Iterator[str]:
    made = {stage.makes for stage in stages}
    for stage in stages:
        for kind in stage.needs:
            if kind not in made:
                maker = next(each.name for each in STAGES if each.makes is kind)
                yield f"[{_section(type(stage))}] needs {kind.__name__}, which [{maker}] makes: add a [{maker}] section"
    if not stages:
        yield f"no stage; add a section for each of {', '.join(stage.name for stage in STAGES[:-1])}"


def _missing_files(stages: Sequence[Stage], folder: Path) -> Iterator[str]:
    for stage in stages:
        try:
            stage.files(folder)
        except RecipeError as error:
            yield f"[{stage.name}] {error}"


def _contradictions(stages: Sequence[Stage]) -> Iterator[str]:
    """What each section alone may ask, and all together cannot."""
    export = _one(stages, Export)
    if export is not None and (calibrate := _one(stages, Calibrate)) is not None:
        try:
            check_opset_beside_caches(export.opset, calibrate.tensorrt_cache)
        except ValueError as error:
            yield f"[calibrate] tensorrt_cache: {error}"
    build = _one(stages, Build)
    if build is None:
        return
    if export is not None:
        for name, target in build.targets.items():
            for mistake in (*missing_profiles(target, export.dynamic), *unused_profiles(target, export.dynamic)):
                yield f"[build.targets.{name}] {mistake}"
    if (calibrate := _one(stages, Calibrate)) is not None:
        yield from _not_calibrated(calibrate, build)
    if (measure := _one(stages, Measure)) is not None:
        for name, target in build.targets.items():
            if beyond := [str(size) for size in measure.batch_sizes if not target.takes_batch(size)]:
                yield (
                    f"[measure] batch_sizes asks for {', '.join(beyond)}, [build.targets.{name}] takes "
                    f"{target.batch.min} to {target.batch.max}: widen its batch, or leave the size out"
                )
    if (report := _one(stages, WriteReport)) is not None:
        yield from _gates_without_reference(report.gates, build)


def _not_calibrated(calibrate: Calibrate, build: Build) -> Iterator[str]:
    """What a target asks for and `[calibrate]` does not write."""
    for name, family in build.quantized_families().items():
        if family not in calibrate.families:
            yield f"[build.targets.{name}] asks for int8: add '{family}' to [calibrate] families"
        elif calibrate.budget is not None and build.targets[name].int8 == "ranges":
            yield (
                f"[build.targets.{name}] int8 = 'ranges' leaves no layer in float, which [calibrate.budget] "
                "decides by Q/DQ pairs; take one of them out"
            )
    for name, target in build.targets.items():
        if "bf16" in target.precisions and not calibrate.bf16:
            yield f"[build.targets.{name}] asks for bf16: add bf16 = true to [calibrate]"


def _gates_without_reference(gates: Gates, build: Build) -> Iterator[str]:
    held = any("fp32" in target.precisions and len(target.precisions) > 1 for target in build.targets.values())
    for name, limit in gates:
        if limit is not None and name.endswith("_ratio_to_fp32") and not held:
            yield f"[{GATES}] {name} needs a target with 'fp32' and another precision to compare with it; none has both"


def _one(stages: Sequence[Stage], kind: type[Kind]) -> Kind | None:
    return next((stage for stage in stages if isinstance(stage, kind)), None)
