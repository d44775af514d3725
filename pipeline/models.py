"""Which network a recipe names: a built-in one with its options, or a user's own function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PositiveInt, Tag, field_validator

from pipeline.errors import RecipeError
from pipeline.userfile import call_factory, split_specification, user_file

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]
"""(channels, height, width)."""


class Residual(BaseModel):
    """A residual CNN: a stem, one basic block a width, mean over space, a linear head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["residual"]
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]

    def make(self, shape: Shape, outputs: int, recipe_folder: Path) -> nn.Module:
        """A network with fresh weights from torch's random state."""
        del recipe_folder
        from pipeline.networks import ResidualNetwork

        return ResidualNetwork(shape[0], self.widths, outputs)


class Plain(BaseModel):
    """A CNN without skips: one convolution, normalization and ReLU a width."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["plain"]
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]

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

    def make(self, shape: Shape, outputs: int, recipe_folder: Path) -> nn.Module:
        """What the function returns; raises RecipeError where that is no module."""
        del shape, outputs
        from torch import nn

        made = call_factory(self.file, recipe_folder, "model", self.options)
        if not isinstance(made, nn.Module):
            raise RecipeError(f"model: {self.file} returned {type(made).__name__}; return a torch.nn.Module")
        return made


NETWORKS: dict[str, type[Residual] | type[Plain]] = {"residual": Residual, "plain": Plain}


def _kind(value: Any) -> str | None:
    if isinstance(value, UserModel) or (isinstance(value, dict) and "file" in value):
        return "file"
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return name if isinstance(name, str) and name in NETWORKS else None


Model = Annotated[
    Annotated[Residual, Tag("residual")] | Annotated[Plain, Tag("plain")] | Annotated[UserModel, Tag("file")],
    Discriminator(
        _kind,
        custom_error_type="unknown_model",
        custom_error_message=f'give file = "models.py:function" or name = one of {", ".join(sorted(NETWORKS))}',
    ),
]


def model_files(model: Residual | Plain | UserModel, recipe_folder: Path) -> dict[str, Path]:
    """The user's file, where the model comes from one; raises RecipeError where it is not there."""
    if isinstance(model, UserModel):
        return {model.file: user_file(model.file, recipe_folder)}
    return {}


def make_model(model: Residual | Plain | UserModel, shape: Shape, outputs: int, recipe_folder: Path) -> nn.Module:
    """A network whose output for one image has the length the task asks for; raises RecipeError otherwise."""
    import torch

    network = model.make(shape, outputs, recipe_folder)
    name = model.file if isinstance(model, UserModel) else model.name
    was_training = network.training
    try:
        with torch.inference_mode():
            found = network.eval()(torch.zeros((2, *shape)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise RecipeError(f"model {name}: does not take images of shape {shape}: {error}") from error
    network.train(was_training)
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != (2, outputs):
        shown = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise RecipeError(
            f"model {name}: gives {shown} for 2 images; the data has {outputs} classes, so it must give (2, {outputs})"
        )
    return network


def parameter_count(network: nn.Module) -> int:
    """Trainable or not."""
    return sum(parameter.numel() for parameter in network.parameters())
