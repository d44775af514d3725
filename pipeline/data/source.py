"""`[data]`: where the samples come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.errors import DataRejected, RecipeError
from pipeline.samples import (
    Axes,
    ImageFolder,
    Samples,
    digit_canvases,
    digit_rows,
    digits,
    digits_file,
    from_factory,
    npz,
)
from pipeline.tasks.task import Task
from pipeline.userfile import split_specification, user_file

BuiltIn = Literal["digits", "digit-canvases", "digit-rows"]
BUILT_IN: Mapping[BuiltIn, Callable[[Task], Samples]] = {
    "digits": digits,
    "digit-canvases": digit_canvases,
    "digit-rows": digit_rows,
}
Text = Annotated[str, Field(min_length=1)]


class Source(BaseModel):
    """Where the samples come from: exactly one of the four."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: BuiltIn | None = None
    npz: Text | None = None
    folder: Text | None = None
    factory: Text | None = None

    @field_validator("factory")
    @classmethod
    def _is_specification(cls, value: str | None) -> str | None:
        if value is not None:
            split_specification(value)
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        given = [name for name in Source.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of source, npz, folder, factory; found {', '.join(given) or 'none'}")
        return self

    def file(self, recipe_folder: Path) -> tuple[str, Path]:
        """The user's file or folder, by its name in the recipe; raises RecipeError where it is not there."""
        if self.factory is not None:
            return self.factory, user_file(self.factory, recipe_folder, "factory")
        if self.source is not None:
            return self.source, digits_file()
        name = self.npz or self.folder or ""
        path = recipe_folder / name
        if not (path.is_file() if self.npz else path.is_dir()):
            key, kind = ("npz", "file") if self.npz else ("folder", "folder")
            raise RecipeError(f"{key} '{name}': there is no {kind} {path}; paths are relative to the recipe")
        return name, path

    def open(self, recipe_folder: Path, task: Task, axes: Axes | None = None) -> Samples:
        """The raw samples; `axes` are of the arrays of a .npz or a factory that are fed as they are."""
        name, path = self.file(recipe_folder)
        if self.factory is not None:
            return from_factory(name, recipe_folder, task, axes)
        if self.source is not None:
            return BUILT_IN[self.source](task)
        if self.npz is not None:
            return npz(path, task, axes)
        samples = ImageFolder(path)
        try:
            names = np.asarray(samples.classes)
            samples.labels, samples.classes = task.checked_labels(samples.labels, names, len(samples), name)
        except DataRejected as error:
            raise RecipeError(
                f"[data] folder '{name}' says one class for each image, which the task '{task.name}' does not take "
                f"({error}); give its labels in a npz or by a factory"
            ) from error
        return samples
