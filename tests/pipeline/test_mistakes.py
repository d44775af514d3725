"""What is wrong with a value is said in words, whatever the value is."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from small_training import RECIPE

from pipeline.mistakes import chosen, explained, settings_from_toml
from pipeline.models.model import NETWORKS, Plain
from pipeline.stages import STAGES

DOCUMENT = tomllib.loads(RECIPE)
SECTIONS: dict[str, type[BaseModel]] = {stage.name: stage for stage in STAGES if stage.name in DOCUMENT}

Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where a value can be replaced: everywhere."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def replaced(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    result = copy.copy(value)
    result[path[0]] = replaced(value[path[0]], path[1:], new)
    return result


PLACES = [(section, path) for section in SECTIONS for path in places(DOCUMENT[section])]
SCALARS = st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_whatever_stands_at_whatever_place_is_taken_or_explained(place: tuple[str, Path], value: Any) -> None:
    section, path = place
    model = SECTIONS[section]
    try:
        settings_from_toml(model, replaced(DOCUMENT[section], path, value))
    except ValidationError as error:
        lines = explained(error, section, model)
        assert lines
        assert all(line.startswith(f"[{section}] ") for line in lines)
        for words in ("Input should", "Value error", "pydantic", "tuple", "dictionary", "instance of"):
            assert not any(words in line.replace(str(value), "") for line in lines), lines


@given(st.sampled_from([place for place in PLACES if place[1]]))
def test_a_key_more_is_named_with_the_table_it_stands_in(place: tuple[str, Path]) -> None:
    section, path = place
    table, model = DOCUMENT[section], SECTIONS[section]
    for step in path:
        table = table[step]
    if not isinstance(table, dict):
        return
    with pytest.raises(ValidationError) as caught:
        settings_from_toml(model, replaced(DOCUMENT[section], path, {**table, "zzz": 1}))
    (line,) = explained(caught.value, section, model)
    # Of a mapping such as [build.targets] every key is a name.
    assert "zzz" in line
    assert "is no key; the keys are " in line or "targets.zzz must be a table, found 1" in line


@pytest.mark.parametrize("value", ["residual", 3, None, [], {}, {"name": 3}, {"widths": [4]}])
def test_a_choice_without_a_name_is_told_the_names(value: object) -> None:
    with pytest.raises(ValueError, match=r"^must be a table with a name, one of efficientnet, [a-z_, ]+transformer$"):
        chosen("network", value, NETWORKS)


def test_a_choice_is_made_by_its_name() -> None:
    assert chosen("network", {"name": "plain", "widths": [4]}, NETWORKS) == Plain(name="plain", widths=(4,))


def test_every_mistake_of_a_choice_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^widths\[0\] must be at least 1, found 0; 'depth' is no key; the keys are "):
        chosen("network", {"name": "plain", "widths": [0], "depth": 3}, NETWORKS)
