"""Weights on disk: safetensors, or a .pt read without running code. Imports torch inside functions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pipeline.artifact import Student, Teacher, teacher_files
from pipeline.context import Context
from pipeline.errors import IntegrityError, NotAcceptable, RecipeError
from pipeline.files import atomic
from pipeline.files.digest import sha256_of_file
from pipeline.models.interface import Interface
from pipeline.models.model import Model, ModelSettings, make_model, model_files, parameter_count

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth")


def write_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Without metadata: more than one key of it would come in another order in every process."""
    from safetensors.torch import save

    atomic.write_bytes(path, save({name: tensor.contiguous() for name, tensor in sorted(state.items())}))


def load_weights(network: nn.Module, path: Path) -> None:
    """Into a network of the same tensors; raises RecipeError for other tensors, NotAcceptable for NaN or infinity."""
    state = _read(path)
    expected = network.state_dict()
    if problems := _mismatches(expected, state):
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise RecipeError(f"{path}: does not fit the model: {'; '.join(problems[:3])}{more}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise NotAcceptable(f"{path}: tensor {name} holds NaN or infinite values; export the weights again")
    network.load_state_dict(state)


def network_document(
    network: nn.Module, model: ModelSettings, interface: Interface, recipe_folder: Path
) -> dict[str, Any]:
    """`model.json`: what it takes to make the network again, the digest of the user's file included."""
    return {
        "model": model.model_dump(mode="json"),
        "files": {name: sha256_of_file(path) for name, path in model_files(model, recipe_folder).items()},
        "interface": interface.to_json(),
        "parameters": parameter_count(network),
    }


def load_network(
    artifact: Teacher | Student, weights: str, context: Context, document: str = "model.json"
) -> nn.Module:
    """A network that an earlier stage recorded, with one of its weights files, in evaluation mode and frozen.

    `document` is the file that describes it: an artifact of several networks has one for each.

    Raises IntegrityError where the user's file is no longer the one that was recorded.
    """
    recorded = artifact.json(document)
    model = TypeAdapter[Any](Model).validate_python(recorded["model"])
    for name, path in model_files(model, context.recipe_folder).items():
        if sha256_of_file(path) != recorded["files"][name]:
            raise IntegrityError(f"{path}: changed since the network was made; run again")
    network = make_model(model, Interface.from_json(recorded["interface"]), context.recipe_folder)
    load_weights(network, artifact.path(weights))
    return network.eval().requires_grad_(False)


def teacher_networks(teacher: Teacher, context: Context) -> list[nn.Module]:
    """Every teacher of the artifact, the first one first; see `load_network`."""
    found: list[nn.Module] = []
    while teacher.path(teacher_files(len(found)).weights).exists():
        weights, document = teacher_files(len(found))
        found.append(load_network(teacher, weights, context, document))
    return found


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(path.read_bytes())
        except SafetensorError as error:
            raise RecipeError(f"{path}: is not a whole safetensors file ({error}); write it again") from error
    return _read_pt(path)


def _read_pt(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        with warnings.catch_warnings():
            # torch warns of the very files that are refused here.
            warnings.simplefilter("ignore", UserWarning)
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # what a damaged pickle raises is not part of torch's interface
        raise RecipeError(
            f"{path}: holds more than tensors or is damaged, and nothing in it was run; "
            f"write it again with torch.save(model.state_dict(), '{path.name}')"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise RecipeError(f"{path}: holds no state dict; write it with torch.save(model.state_dict(), '{path.name}')")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def _mismatches(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in found]
    unexpected = [f"{name} is not in the model" for name in found if name not in expected]
    shapes = [
        f"{name} has shape {tuple(found[name].shape)}, the model {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    return shapes + missing + unexpected
