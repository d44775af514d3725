"""The Stage contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from pipeline.artifact import Artifact, Artifacts
from pipeline.context import Context


class Stage(BaseModel, ABC):
    """One step of a recipe. A subclass is final and frozen; its fields are its recipe section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised when the output changes for the same settings."""
    needs: ClassVar[tuple[type[Artifact], ...]]
    makes: ClassVar[type[Artifact]]
    tools: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions shape the output."""

    collective: ClassVar[bool] = False
    """Whether all processes of a `torchrun` work on it together; any other stage is the leader's alone."""
    names_recipe: ClassVar[bool] = False
    """Whether the recipe's name and path stand in the output."""

    @abstractmethod
    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        """Reads only `inputs`, writes only into `target`."""

    def files(self, recipe_folder: Path) -> Mapping[str, Path]:  # noqa: ARG002 stages that read user files use it
        """User files and folders that it reads, by the name the recipe gives them."""
        return {}

    def more_tools(self) -> tuple[str, ...]:
        """Distributions beside `tools` that these very settings bring in."""
        return ()

    def require(self) -> None:
        """Raises MachineLacks or RecipeError, before anything runs, where the stage cannot be done on this machine."""

    def rehearse(self, made: Artifacts, context: Context) -> None:
        """Tries, once the data is there and before long work starts, what would otherwise fail after it."""

    def surroundings(self) -> Mapping[str, Any]:
        """What else outside the recipe shapes the output, such as the machine that is measured."""
        return {}
