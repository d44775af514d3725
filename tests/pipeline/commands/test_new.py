"""`edgestill new`: a recipe to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_graph import shown

from pipeline.commands.new import new
from pipeline.errors import RecipeError
from pipeline.recipe import load_recipe


@pytest.mark.parametrize("name", ["mine", "a-b.c_1"])
def test_new_writes_a_recipe_that_loads(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.toml"
    outcome = new(path, "digits")
    assert shown(outcome, 200) == f"wrote {path}; change it, then: edgestill run {path}\n"
    assert load_recipe(str(path)).name == name
    assert "# " in path.read_text()


@pytest.mark.parametrize("stem", ["a" * 70, "a b", "-mine"])
def test_new_writes_no_recipe_that_run_refuses(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.toml"
    with pytest.raises(RecipeError, match=r"\.toml: names the recipe too, so take letters, .* alone, at most 64, the"):
        new(path, "digits")
    assert not path.exists()


def test_new_leaves_an_existing_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    with pytest.raises(RecipeError, match=r"mine.toml: exists already; it was left as it is"):
        new(path, "digits")
    assert path.read_text() == "mine"
