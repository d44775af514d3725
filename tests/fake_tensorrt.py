"""A network as TensorRT 10.3 would parse it, for what binds ranges: its classes have the members of the API alone."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

_API: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "tensorrt-api" / "tensorrt-10.3.json").read_text(encoding="utf-8")
)["api"]


def enum_of(name: str) -> Any:
    return enum.IntEnum(name, list(_API[name]["members"]), start=0)


def _not_implemented(name: str) -> Any:
    def member(*_: Any) -> Any:
        raise NotImplementedError(name)

    return property(member)


def with_the_members_of_the_api(fake: type) -> type:
    """Adds the members that the fake leaves out, refusing; one that TensorRT lacks is a mistake of the fake's."""
    members = _API[fake.__name__]["members"]
    own = {name for name in vars(fake) if not name.startswith("_")}
    assert own <= set(members), f"TensorRT 10.3 has no {fake.__name__}.{own - set(members)}"
    for name in set(members) - own:
        if not name.startswith("__"):
            setattr(fake, name, _not_implemented(f"{fake.__name__}.{name}"))
    return fake


DataType, LayerType = enum_of("DataType"), enum_of("LayerType")
_OPERATIONS = {
    "ACTIVATION": ("IActivationLayer", "type", enum_of("ActivationType")),
    "ELEMENTWISE": ("IElementWiseLayer", "op", enum_of("ElementWiseOperation")),
    "POOLING": ("IPoolingLayer", "type", enum_of("PoolingType")),
    "REDUCE": ("IReduceLayer", "op", enum_of("ReduceOperation")),
    "RESIZE": ("IResizeLayer", "resize_mode", enum_of("InterpolationMode")),
    "UNARY": ("IUnaryLayer", "op", enum_of("UnaryOperation")),
}


@with_the_members_of_the_api
class ITensor:
    def __init__(
        self,
        name: str,
        dtype: Any = None,
        is_shape: bool = False,
        refuses: bool = False,
        dims: Sequence[int | str] = (),
    ) -> None:
        self._dims = dims
        self._name, self._dtype, self._is_shape, self._refuses = name, dtype or DataType.FLOAT, is_shape, refuses
        self._range: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(-1 if isinstance(size, str) else size for size in self._dims)

    def get_dimension_name(self, index: int) -> str:
        return str(self._dims[index])

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def is_shape_tensor(self) -> bool:
        return self._is_shape

    @property
    def dynamic_range(self) -> tuple[float, float] | None:
        return self._range

    def set_dynamic_range(self, min: float, max: float) -> bool:
        if not self._refuses:
            self._range = (float(np.float32(min)), float(np.float32(max)))  # as C++ floats
        return not self._refuses


@with_the_members_of_the_api
class ILayer:
    def __init__(
        self, kind: str, name: str, inputs: Sequence[ITensor | None], outputs: Sequence[ITensor], weights: Any = None
    ) -> None:
        self._kind, _, self._operation = kind.partition(" ")
        self._name, self._inputs, self._outputs, self._weights = name, inputs, outputs, weights

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> Any:
        return LayerType[self._kind]

    @property
    def metadata(self) -> str:
        return f"[ONNX Layer: {self._name}]"

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor | None:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


@with_the_members_of_the_api
class INetworkDefinition:
    def __init__(self, inputs: Sequence[ITensor], layers: Sequence[ILayer], creation_flags: int = 0) -> None:
        self._inputs, self._layers, self._creation_flags = inputs, layers, creation_flags

    def get_flag(self, flag: int) -> bool:
        return bool(self._creation_flags >> flag & 1)

    @property
    def num_outputs(self) -> int:
        return int(bool(self._layers))

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


def _constant_layer() -> type:
    members = {"weights": property(lambda layer: layer._weights)}
    return with_the_members_of_the_api(type("IConstantLayer", (ILayer,), members))


def _layer_class(name: str, member: str, operations: Any) -> type:
    """A layer that is handed out as an ILayer knows its operation only as its own class."""
    members = {member: property(lambda layer: operations[layer._operation])}
    return with_the_members_of_the_api(type(name, (ILayer,), members))


MODULE = SimpleNamespace(
    __name__="tensorrt",
    __version__="10.3.0",
    DataType=DataType,
    LayerType=LayerType,
    ILayer=ILayer,
    ITensor=ITensor,
    IConstantLayer=_constant_layer(),
    **{name: _layer_class(name, member, operations) for name, member, operations in _OPERATIONS.values()},
)
"""What `import tensorrt` would give, as far as it is needed."""


class NetworkOf:
    """Builds a network from layers that name their tensors."""

    def __init__(self, *inputs: str) -> None:
        self.tensors = {name: ITensor(name) for name in inputs}
        self._inputs = list(self.tensors.values())
        self._layers: list[ILayer] = []

    def layer(self, kind: str, inputs: Sequence[str], *outputs: str, weights: Any = None) -> None:
        """`kind` is of LayerType, with its operation: `POOLING MAX`. Tensors that are not known yet are made."""
        made = [self.tensors.setdefault(name, ITensor(name)) for name in outputs]
        read = [self.tensors.setdefault(name, ITensor(name)) for name in inputs]
        self._layers.append(ILayer(kind, f"layer_{len(self._layers)}", read, made, weights))

    def built(self) -> INetworkDefinition:
        return INetworkDefinition(self._inputs, self._layers)
