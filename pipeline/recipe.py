"""TOML -> stages. Every mistake a user can make in a recipe is caught here, before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, Tag, ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import RecipeError
from pipeline.gates import Gates
from pipeline.names import nearest, unknown
from pipeline.stage import Stage
from pipeline.stages import STAGES
from pipeline.stages.build import Build
from pipeline.stages.calibrate import Calibrate
from pipeline.stages.report import WriteReport
from pipeline.tasks import TASKS, Task

GATES = "gates"
"""The section that the report stage reads: what decides the exit code."""


class Header(BaseModel):
    """What stands above the sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    task: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: PositiveInt = 1


@dataclass(frozen=True)
class Recipe:
    """One valid recipe."""

    name: str
    task: Task
    seed: int
    threads: int
    stages: tuple[Stage, ...]
    folder: Path
    """What user files' paths are relative to."""

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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from error
    return recipe_from_text(text, path.resolve().parent, str(path))


def recipe_from_text(text: str, folder: Path, where: str) -> Recipe:
    """Raises RecipeError with every mistake found, each with its section and what to write instead."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: is not TOML: {error}") from error
    mistakes: list[str] = []
    header = _header(document, mistakes)
    stages = _stages(document, mistakes)
    if mistakes or header is None:
        raise RecipeError("\n".join(f"{where}: {mistake}" for mistake in mistakes))
    recipe = Recipe(header.name, TASKS[header.task], header.seed, header.threads, stages, folder)
    for stage in stages:
        stage.files(folder)
    return recipe


def _header(document: Mapping[str, Any], mistakes: list[str]) -> Header | None:
    sections = [*(stage.name for stage in STAGES if stage is not WriteReport), GATES]
    given = {name: value for name, value in document.items() if name not in sections}
    for name in [name for name in given if name not in Header.model_fields]:
        mistakes.append(
            unknown("section" if isinstance(given.pop(name), dict) else "key", name, [*Header.model_fields, *sections])
        )
    try:
        header = Header.model_validate(given)
    except ValidationError as error:
        mistakes.extend(explained(error, "", Header))
        return None
    if header.task not in TASKS:
        mistakes.append(unknown("task", header.task, TASKS))
        return None
    return header


def _stages(document: Mapping[str, Any], mistakes: list[str]) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for kind in STAGES:
        is_report = kind is WriteReport
        section, value = (GATES, document.get(GATES)) if is_report else (kind.name, document.get(kind.name))
        # The report has no settings but its gates: it closes every recipe that measures.
        if value is None and not (is_report and "measure" in document):
            continue
        try:
            stages.append(kind.model_validate({GATES: value or {}} if is_report else value))
        except ValidationError as error:
            mistakes.extend(explained(error, section, Gates if is_report else kind))
    if not mistakes:
        mistakes.extend(_missing_stages(stages))
        mistakes.extend(_missing_graphs(stages))
    return tuple(stages)


def _missing_stages(stages: list[Stage]) -> Iterable[str]:
    made = {stage.makes for stage in stages}
    for stage in stages:
        for kind in stage.needs:
            if kind not in made:
                maker = next(each.name for each in STAGES if each.makes is kind)
                yield f"[{stage.name}] needs {kind.__name__}, which [{maker}] makes: add a [{maker}] section"
    if not stages:
        yield f"no stage; add a section for each of {', '.join(stage.name for stage in STAGES[:-1])}"


def _missing_graphs(stages: list[Stage]) -> Iterable[str]:
    calibrate = next((stage for stage in stages if isinstance(stage, Calibrate)), None)
    build = next((stage for stage in stages if isinstance(stage, Build)), None)
    if calibrate is None or build is None:
        return
    for name, family in build.int8_families().items():
        if family not in calibrate.families:
            yield f"[build.targets.{name}] asks for int8: add '{family}' to [calibrate] families"


def explained(error: ValidationError, section: str, model: type[BaseModel]) -> list[str]:
    """One line a mistake: where, what, and the nearest name where one was mistyped."""
    return [_explained(mistake, section, model) for mistake in error.errors(include_url=False)]


def _explained(mistake: Any, section: str, model: type[BaseModel]) -> str:
    steps, holder = _resolved(mistake["loc"], model)
    if steps[:1] == [section]:
        steps = steps[1:]
    place = f"[{section}] " if section else ""
    where = ".".join(steps)
    message = str(mistake["msg"]).removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        hint = nearest(steps[-1], holder.model_fields)
        names = "" if hint else f"; the keys are {', '.join(holder.model_fields)}"
        return f"{place}'{where}' is no key{hint}{names}"
    if mistake["type"] == "missing":
        return f"{place}'{where}' is missing"
    if mistake["type"] in ("value_error", "unknown_model"):
        return f"{place}{where + ': ' if where and not message.startswith(where) else ''}{message}"
    return f"{place}{where}: {message[:1].lower()}{message[1:]}, found {mistake['input']!r}"


def _resolved(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The steps that the user wrote, without pydantic's own, and the model that the last step is a key of."""
    steps: list[str] = []
    holder = model
    inner: type[BaseModel] | None = model
    candidates: dict[str, type[BaseModel]] = {}
    for step in location:
        if str(step) in candidates and steps:
            inner = candidates[str(step)]
            continue
        if inner is not None:
            holder = inner
        steps.append(str(step))
        field = holder.model_fields.get(str(step))
        inner, candidates = (None, {}) if field is None else _models_in(field)
    return steps, holder


def _models_in(field: FieldInfo) -> tuple[type[BaseModel] | None, dict[str, type[BaseModel]]]:
    """The model of a field that holds one; of a field that holds several, each by pydantic's name for it."""
    found: dict[str, type[BaseModel]] = {}

    def walk(annotation: Any, tag: str | None) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found[tag or annotation.__name__] = annotation
        tags = [each.tag for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Tag)]
        for argument in get_args(annotation):
            walk(argument, tags[0] if tags else tag)

    walk(field.annotation, None)
    for each in field.metadata:
        walk(each, None)
    return (next(iter(found.values())) if len(found) == 1 else None), found
