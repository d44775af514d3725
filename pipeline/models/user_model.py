"""A network that a user's own file makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.errors import RecipeError
from pipeline.models.interface import Interface
from pipeline.userfile import call_factory, split_specification

if TYPE_CHECKING:
    from torch import nn


def checked_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options; raises ValueError where one is nan or inf, which JSON cannot hold."""
    try:
        json.dumps(options, allow_nan=False)
    except ValueError:
        raise ValueError("options hold nan or inf; give finite numbers") from None
    return options


class UserModel(BaseModel):
    """`models.py:make_student`: a function of the user's that returns a torch module. This is code, and it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    options: Mapping[str, Any] = {}
    """Keyword arguments of the function."""

    @field_validator("file")
    @classmethod
    def _is_specification(cls, value: str) -> str:
        split_specification(value)
        return value

    @field_validator("options")
    @classmethod
    def _are_finite(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        return checked_options(value)

    def make(self, interface: Interface, recipe_folder: Path) -> nn.Module:
        """What the function returns; raises RecipeError where that is no module."""
        del interface
        from torch import nn

        made = call_factory(self.file, recipe_folder, "model", self.options)
        if not isinstance(made, nn.Module):
            raise RecipeError(f"model: {self.file} returned {type(made).__name__}; return a torch.nn.Module")
        return made
