"""Which network a recipe names: a built-in one with its options, one of a library, or a user's own function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator

from pipeline.errors import RecipeError
from pipeline.mistakes import chosen, settings_or_value_error
from pipeline.models.built_in_networks import NETWORKS, BuiltInNetwork, Plain
from pipeline.models.interface import Interface, Shape, named_outputs
from pipeline.models.library_model import LIBRARIES, LibraryModel
from pipeline.models.user_model import UserModel
from pipeline.userfile import line_in, path_of, user_file

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "NETWORKS",
    "Model",
    "ModelSettings",
    "Plain",
    "UserModel",
    "make_model",
    "model_files",
    "model_tools",
    "parameter_count",
]

ModelSettings: TypeAlias = BuiltInNetwork | LibraryModel | UserModel


def _model_from_toml(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value
    if not isinstance(value, Mapping) or ("name" in value) == ("file" in value):
        libraries = ", ".join(f"{library}:NAME" for library in LIBRARIES)
        raise ValueError(
            f'give either name = one of {", ".join(sorted(NETWORKS))}, {libraries}, or file = "models.py:function"'
        )
    if "file" in value:
        return settings_or_value_error(UserModel, value)
    if isinstance(value["name"], str) and ":" in value["name"]:
        return settings_or_value_error(LibraryModel, value)
    return chosen("network", value, NETWORKS)


Model = Annotated[ModelSettings, BeforeValidator(_model_from_toml)]


def model_files(model: ModelSettings, recipe_folder: Path) -> dict[str, Path]:
    """The user's file, where the model comes from one; raises RecipeError where it is not there."""
    if isinstance(model, UserModel):
        return {model.file: user_file(model.file, recipe_folder, "model.file")}
    return {}


def model_tools(model: ModelSettings) -> tuple[str, ...]:
    """Distributions whose version shapes the network, besides torch."""
    return (model.library,) if isinstance(model, LibraryModel) else ()


def make_model(model: ModelSettings, interface: Interface, recipe_folder: Path) -> nn.Module:
    """A network that takes the interface's inputs and gives its outputs; raises RecipeError otherwise."""
    name = model.file if isinstance(model, UserModel) else model.name
    try:
        network = model.make(interface, recipe_folder)
    except RuntimeError as error:  # torch's own for memory that it cannot get
        raise RecipeError(f"model {name}: cannot be made ({_first_line(error)}); use smaller widths") from error
    was_training = network.training
    # Two sizes: a network that has one batch size written into it takes only one of them.
    for batch_size in (2, 3):
        tried = f"{batch_size} {'images' if interface.is_one_image() else 'samples'}"
        try:
            found = _outputs_for_zeros(network, interface, batch_size)
        except Exception as error:  # a network of the user's may raise anything
            place = f" ({line_in(error, path_of(model.file, recipe_folder))})" if isinstance(model, UserModel) else ""
            raise RecipeError(
                f"model {name}: does not take {tried} of {_shapes(interface)}: {type(error).__name__}: "
                f"{_first_line(error)}{place}"
            ) from error
        try:
            outputs = named_outputs(found, tuple(interface.outputs))
        except ValueError as error:
            raise RecipeError(f"model {name}: {error} (for {tried})") from error
        for output, tensor in outputs.items():
            if mistake := _misshapen(tuple(tensor.shape), batch_size, interface.outputs[output], interface.classes):
                raise RecipeError(f"model {name}: gives {output} of {tuple(tensor.shape)} for {tried}; {mistake}")
    network.train(was_training)
    return network


def parameter_count(network: nn.Module) -> int:
    """Trainable or not."""
    return sum(parameter.numel() for parameter in network.parameters())


def _outputs_for_zeros(network: nn.Module, interface: Interface, batch_size: int) -> Any:
    import torch

    with torch.inference_mode():
        return network.eval()(*interface.zeros(batch_size))


def _shapes(interface: Interface) -> str:
    if interface.is_one_image():
        return f"shape {interface.inputs[0].shape}"
    return ", ".join(f"{spec.name} {spec.shape} {spec.dtype}" for spec in interface.inputs)


def _misshapen(found: Shape, batch_size: int, wanted: Shape | None, classes: int) -> str:
    """What is wrong with an output's shape, or nothing; without a wanted shape only its first axis is judged."""
    if wanted is None:
        return "" if found[:1] == (batch_size,) else f"its first axis must be the batch, {batch_size}"
    if found == (batch_size, *wanted):
        return ""
    return f"the data has {classes} classes, so it must be {(batch_size, *wanted)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
