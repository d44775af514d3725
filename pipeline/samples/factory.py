"""A user's own function that makes the samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected, RecipeError
from pipeline.samples.arrays import BESIDE, IMAGES, ArraySamples
from pipeline.samples.base import Axes, Samples
from pipeline.tasks.task import Task
from pipeline.userfile import call_factory


def from_factory(specification: str, recipe_folder: Path, task: Task, axes: Axes | None = None) -> Samples:
    """A user's `data.py:make_dataset()`: it returns (images, labels[, class names[, splits]]).

    With `axes`, a dict of the arrays that they name stands in the place of the images.
    """
    where, first = f"[data] factory {specification}", "inputs" if axes else IMAGES
    made = call_factory(specification, recipe_folder, "[data] factory")
    if not isinstance(made, tuple) or len(made) not in (2, 3, 4):
        raise RecipeError(
            f"{where} returned {type(made).__name__}; "
            f"return ({first}, labels), ({first}, labels, class_names) or ({first}, labels, class_names, splits)"
        )
    inputs, *beside = made
    if inputs is None or beside[0] is None:
        raise RecipeError(f"{where} returned None for {first} or labels; return arrays")
    found = _inputs(inputs, axes, where)
    found |= {name: part for name, part in zip(BESIDE, beside, strict=False) if part is not None}
    return ArraySamples(
        {name: _array(part, name, specification) for name, part in found.items()}, specification, task, axes
    )


def _inputs(inputs: Any, axes: Axes | None, where: str) -> dict[str, Any]:
    if not axes:
        if isinstance(inputs, Mapping):
            raise RecipeError(
                f"{where} returned a dict of {', '.join(map(str, inputs)) or 'nothing'}; "
                'name its arrays and their axes: inputs = { rows = ["length", "features"] }'
            )
        return {IMAGES: inputs}
    if not isinstance(inputs, Mapping):
        raise RecipeError(
            f"{where} returned {type(inputs).__name__} for inputs; "
            f"[data] inputs wants a dict of arrays: {', '.join(axes)}"
        )
    if missing := [name for name in axes if name not in inputs]:
        raise RecipeError(f"{where} returned no '{missing[0]}' (found {', '.join(map(str, inputs)) or 'none'})")
    return {name: inputs[name] for name in axes}


def _array(part: Any, name: str, where: str) -> NDArray[Any]:
    try:
        return np.asarray(part)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors of another device
        raise DataRejected(
            f"{where}: {name} are no array ({error}); give all the same shape, in host memory"
        ) from error
