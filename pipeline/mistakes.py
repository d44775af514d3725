"""TOML values -> settings, and what is wrong with them: where, what, and the nearest name to a mistyped one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipeline.names import nearest, unknown

Settings = TypeVar("Settings", bound=BaseModel)
Location = tuple[int | str, ...]

_LONGEST_VALUE = 60

# What pydantic calls a type, in TOML's words.
_EXPECTED = {
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "tuple_type": "must be an array",
    "model_type": "must be a table",
    "dict_type": "must be a table",
}


def settings_from_toml(model: type[Settings], value: Any) -> Settings:
    """Each value in the type that was asked for: "1" is no number and true is no 1; raises ValidationError."""
    # Through JSON, because there an array may become a tuple while all else stays strict.
    return model.model_validate_json(json.dumps(value, default=str), strict=True)


def chosen(kind: str, value: Any, table: Mapping[str, type[Settings]]) -> Settings:
    """The settings that a table's `name` picks; raises ValueError with what to write instead."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"must be a table with a name, one of {', '.join(sorted(table))}")
    if value["name"] not in table:
        raise ValueError(unknown(kind, value["name"], table))
    return settings_or_value_error(table[value["name"]], value)


def settings_or_value_error(model: type[Settings], value: Any) -> Settings:
    """For a validator inside another model: pydantic cannot tell there which model's keys are meant."""
    try:
        return settings_from_toml(model, value)
    except ValidationError as error:
        raise ValueError("; ".join(explained(error, "", model))) from error


def explained(error: ValidationError, section: str, model: type[BaseModel]) -> list[str]:
    """One line a mistake: where, what, and the nearest name where one was mistyped."""
    found: dict[tuple[str, str], list[str]] = {}
    for mistake in _causes(error):
        steps, holder = _resolved(mistake["loc"], model)
        said, value = _said(mistake, steps, holder)
        # A value that may be of several types has one mistake for each: to the user they are one.
        found.setdefault((_written(steps) if value else said, value), []).append(said)
    place = f"[{section}] " if section else ""
    return [
        f"{place}{f'{where} ' if where else ''}{' or '.join(said)}, found {value}" if value else f"{place}{where}"
        for (where, value), said in found.items()
    ]


def _causes(error: ValidationError) -> Iterator[Any]:
    """Without what follows from another mistake: an array is too short because its one value was refused."""
    mistakes = error.errors(include_url=False)
    for mistake in mistakes:
        location = mistake["loc"]
        if mistake["type"] == "too_short" and any(
            other["loc"][: len(location)] == location and len(other["loc"]) > len(location) for other in mistakes
        ):
            continue
        yield mistake


def _said(mistake: Any, steps: Location, holder: type[BaseModel]) -> tuple[str, str]:
    """What is wrong, and the value to show after it, or the whole sentence and nothing."""
    where, kind = _written(steps), mistake["type"]
    if kind == "extra_forbidden":
        hint = nearest(str(steps[-1]), holder.model_fields) or f"; the keys are {', '.join(holder.model_fields)}"
        return f"'{where}' is no key{hint}", ""
    if kind == "missing":
        return f"'{where}' is missing", ""
    if kind == "value_error":
        message = str(mistake["msg"]).removeprefix("Value error, ")
        return message if not where or message.startswith(f"{where} ") else f"{where}: {message}", ""
    return _expected(mistake), _shown(mistake["input"])


def _expected(mistake: Any) -> str:
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind in ("too_short", "too_long"):
        bound, count = ("least", context["min_length"]) if kind == "too_short" else ("most", context["max_length"])
        return f"must have at {bound} {count} value{'s' if count > 1 else ''}"
    if kind == "tuple_type" and isinstance(mistake["input"], dict):
        return "must be an array of tables, each under [[double brackets]]"
    return (
        f"must be {context['expected']}" if kind == "literal_error" else _EXPECTED.get(kind) or _plain(mistake["msg"])
    )


def _plain(message: str) -> str:
    """`Input should be greater than or equal to 18` as `must be at least 18`."""
    for long, short in (
        ("Input should", "must"),
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
    ):
        message = message.replace(long, short, 1)
    return message


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _written(steps: Location) -> str:
    """`('losses', 0, 'alpha')` as `losses[0].alpha`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _resolved(location: Location, model: type[BaseModel]) -> tuple[Location, type[BaseModel]]:
    """The steps that the user wrote, without pydantic's own, and the model that the last step is a key of."""
    steps: list[int | str] = []
    holder, inner, is_key = model, model, False
    leaf = False
    for step in location:
        if isinstance(step, int):
            steps.append(step)
        elif is_key:
            steps.append(step)
            is_key = False
        elif not leaf and step != "[key]":
            steps.append(step)
            holder, field = inner, inner.model_fields.get(step)
            found = None if field is None else _model_in(field.annotation)
            leaf, inner = found is None, found or inner
            is_key = field is not None and get_origin(field.annotation) is Mapping
    return tuple(steps), holder


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_in(each)) is not None), None)
