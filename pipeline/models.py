"""Which network a recipe names: a built-in one with its options, or a user's own function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from pipeline.errors import RecipeError
from pipeline.mistakes import chosen, settings_or_value_error
from pipeline.userfile import call_factory, line_in, path_of, split_specification, user_file

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]
"""(channels, height, width)."""

Width = Annotated[int, Field(ge=1, le=65_536)]


class Residual(BaseModel):
    """A residual CNN: a stem, one basic block a width, mean over space, a linear head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["residual"]
    widths: Annotated[tuple[Width, ...], Field(min_length=1)]

    def make(self, shape: Shape, outputs: int, recipe_folder: Path) -> nn.Module:
        """A network with fresh weights from torch's random state."""
        del recipe_folder
        from pipeline.networks import ResidualNetwork

        return ResidualNetwork(shape[0], self.widths, outputs)


class Plain(BaseModel):
    """A CNN without skips: one convolution, normalization and ReLU a width."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["plain"]
    widths: Annotated[tuple[Width, ...], Field(min_length=1)]

    def make(self, shape: Shape, outputs: int, recipe_folder: Path) -> nn.Module:
        """A network with fresh weights from torch's random state."""
        del recipe_folder
        from pipeline.networks import PlainNetwork

        return PlainNetwork(shape[0], self.widths, outputs)


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
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError("options hold nan or inf; give finite numbers") from None
        return value

    def make(self, shape: Shape, outputs: int, recipe_folder: Path) -> nn.Module:
        """What the function returns; raises RecipeError where that is no module."""
        del shape, outputs
        from torch import nn

        made = call_factory(self.file, recipe_folder, "model", self.options)
        if not isinstance(made, nn.Module):
            raise RecipeError(f"model: {self.file} returned {type(made).__name__}; return a torch.nn.Module")
        return made


NETWORKS: dict[str, type[Residual] | type[Plain]] = {"residual": Residual, "plain": Plain}


def _model_from_toml(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value
    if not isinstance(value, Mapping) or ("name" in value) == ("file" in value):
        raise ValueError(f'give either name = one of {", ".join(sorted(NETWORKS))}, or file = "models.py:function"')
    return settings_or_value_error(UserModel, value) if "file" in value else chosen("network", value, NETWORKS)


Model = Annotated[Residual | Plain | UserModel, BeforeValidator(_model_from_toml)]


def model_files(model: Residual | Plain | UserModel, recipe_folder: Path) -> dict[str, Path]:
    """The user's file, where the model comes from one; raises RecipeError where it is not there."""
    if isinstance(model, UserModel):
        return {model.file: user_file(model.file, recipe_folder, "model.file")}
    return {}


def make_model(model: Residual | Plain | UserModel, shape: Shape, outputs: int, recipe_folder: Path) -> nn.Module:
    """A network whose output for one image has the length the task asks for; raises RecipeError otherwise."""
    import torch

    name = model.file if isinstance(model, UserModel) else model.name
    try:
        network = model.make(shape, outputs, recipe_folder)
    except RuntimeError as error:  # torch's own for memory that it cannot get
        raise RecipeError(f"model {name}: cannot be made ({_first_line(error)}); use smaller widths") from error
    was_training = network.training
    # Two sizes: a network that has one batch size written into it takes only one of them.
    for batch_size in (2, 3):
        try:
            with torch.inference_mode():
                found = network.eval()(torch.zeros((batch_size, *shape)))
        except Exception as error:  # a network of the user's may raise anything
            place = f" ({line_in(error, path_of(model.file, recipe_folder))})" if isinstance(model, UserModel) else ""
            raise RecipeError(
                f"model {name}: does not take {batch_size} images of shape {shape}: {type(error).__name__}: "
                f"{_first_line(error)}{place}"
            ) from error
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != (batch_size, outputs):
            shown = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise RecipeError(
                f"model {name}: gives {shown} for {batch_size} images; the data has {outputs} classes, so it must give "
                f"({batch_size}, {outputs})"
            )
    network.train(was_training)
    return network


def parameter_count(network: nn.Module) -> int:
    """Trainable or not."""
    return sum(parameter.numel() for parameter in network.parameters())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
