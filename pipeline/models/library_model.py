"""A network of timm or torchvision by its name there, with fresh weights."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.errors import MachineLacks, RecipeError, is_out_of_memory
from pipeline.models.interface import Interface
from pipeline.models.network_suitability import interface_in_words, only_output
from pipeline.models.user_model import checked_options
from pipeline.names import unknown

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")
# timm takes `hf-hub:owner/name` for a name, and downloads it.
_NETWORK_NAME = re.compile(r"\w[\w.]*", re.ASCII)
_WEIGHTS_OPTIONS = ("pretrained", "weights", "checkpoint", "cache_dir")
_DATA_OPTIONS = ("num_classes", "in_chans")
_COLOR_CHANNELS = 3


class LibraryModel(BaseModel):
    """`timm:resnet50`, `torchvision:resnet18`: how many classes and channels it has comes from the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: Mapping[str, Any] = {}
    """Keyword arguments of the library's function."""

    @field_validator("name")
    @classmethod
    def _names_a_network(cls, value: str) -> str:
        library, _, network = value.partition(":")
        if library not in LIBRARIES:
            raise ValueError(unknown("library", library, LIBRARIES))
        if not _NETWORK_NAME.fullmatch(network):
            raise ValueError(f"'{value}' names no network; write it as {library} does, such as {library}:resnet18")
        return value

    @field_validator("options")
    @classmethod
    def _leave_weights_and_data_alone(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        for option in value:
            if option.startswith(_WEIGHTS_OPTIONS):
                raise ValueError(
                    f"options.{option}: nothing is downloaded; "
                    'save the weights as a local file and name it in [teacher] weights = "teacher.safetensors"'
                )
            if option in _DATA_OPTIONS:
                raise ValueError(f"options.{option}: comes from the data; leave it out")
        return checked_options(value)

    @property
    def library(self) -> str:
        """The distribution that it comes from."""
        return self.name.partition(":")[0]

    def make(self, interface: Interface, recipe_folder: Path) -> nn.Module:
        """Raises MachineLacks without the library, RecipeError for a name or an option that it does not know."""
        del recipe_folder
        outputs = _single_output(self.name, interface)
        library = _imported(self.library, self.name)
        try:
            if self.library == "timm":
                return self._from_timm(library, interface, outputs)
            return self._from_torchvision(library.models, interface, outputs)
        except RecipeError:
            raise
        except Exception as error:  # each network of a library raises what it likes
            if is_out_of_memory(error):
                raise
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise RecipeError(
                f"model {self.name}: {self.library} cannot make it ({type(error).__name__}: {reason}); "
                f"its options are {dict(self.options)}"
            ) from error

    def _from_timm(self, timm: Any, interface: Interface, outputs: int) -> nn.Module:
        network = self._known(timm.is_model, timm.list_models)
        channels = interface.inputs[0].shape[0]
        made: nn.Module = timm.create_model(
            network, pretrained=False, num_classes=outputs, in_chans=channels, **self.options
        )
        return made

    def _from_torchvision(self, models: Any, interface: Interface, outputs: int) -> nn.Module:
        network = self._known(lambda name: name in models.list_models(), models.list_models)
        if (channels := interface.inputs[0].shape[0]) != _COLOR_CHANNELS:
            raise RecipeError(
                f"model {self.name}: torchvision's networks take images of {_COLOR_CHANNELS} channels, the data has "
                f"{channels}; use a network of timm or a built-in one, or convert the images"
            )
        # A segmentation network's backbone would otherwise come with downloaded weights.
        backbone = "weights_backbone" in inspect.signature(models.get_model_builder(network)).parameters
        alone = {"weights_backbone": None} if backbone else {}
        made: nn.Module = models.get_model(network, weights=None, num_classes=outputs, **alone, **self.options)
        # A hook and no wrapper: module paths and names of weights stay torchvision's.
        made.register_forward_hook(_main_output)
        return made

    def _known(self, is_known: Any, known: Any) -> str:
        network = self.name.partition(":")[2]
        if not is_known(network):
            raise RecipeError(f"model {self.name}: {self.library} has no network '{network}'{_near(network, known())}")
        return network


def _single_output(name: str, interface: Interface) -> int:
    """How many values the library's head gives for an image, or for a pixel."""
    output = only_output(interface)
    if not interface.is_one_image() or not output:
        raise RecipeError(
            f"model {name}: takes one image and gives one output, the task has {interface_in_words(interface)}; "
            'make a network in a file of your own, { file = "models.py:function" }'
        )
    return output[0]


def _imported(library: str, name: str) -> Any:
    try:
        return importlib.import_module(library)
    except Exception as error:  # built for another torch, it raises more than ImportError
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise MachineLacks(
            f"model {name}: {library} cannot be imported ({type(error).__name__}: {reason}); "
            "pip install 'edgestill[vision]'"
        ) from error


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else "; look its name up in the library's documentation"


def _main_output(network: nn.Module, inputs: Any, found: Any) -> Any:
    """Of a segmentation network, which gives {"out": ..., "aux": ...}, and of one with auxiliary heads in training."""
    del network, inputs
    if isinstance(found, Mapping) and "out" in found:
        return found["out"]
    return found[0] if isinstance(found, tuple) and hasattr(found, "_fields") else found
