"""The network that TensorRT's parser made of an ONNX file, as plain data: layers, and who writes and reads a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from engines.errors import BuildFailed
from engines.tensorrt.api import (
    IActivationLayer,
    IConstantLayer,
    IElementWiseLayer,
    ILayer,
    INetworkDefinition,
    IPoolingLayer,
    IReduceLayer,
    IResizeLayer,
    ITensor,
    IUnaryLayer,
    Module,
)

Read = TypeVar("Read")


@dataclass(frozen=True)
class ParsedLayer:
    """One layer; tensors go by name."""

    name: str
    kind: str
    """Its `LayerType`, and what it does where that leaves it open: `SHUFFLE`, `POOLING MAX`, `ELEMENTWISE SUM`."""
    inputs: tuple[str, ...]
    """Of floating point: shapes, indices and conditions are left out."""
    outputs: tuple[str, ...]
    constant_amax: float | None = None
    """Largest magnitude of a CONSTANT's values; NaN or infinite where they are."""

    def __str__(self) -> str:
        return f"{self.kind} layer {self.name!r}"


@dataclass(frozen=True)
class ParsedNetwork:
    """The layers in TensorRT's order, and its float tensors by name: what INT8 could be asked of."""

    layers: tuple[ParsedLayer, ...]
    tensors: dict[str, ITensor]

    @cached_property
    def writer(self) -> dict[str, ParsedLayer]:
        """Of each tensor that is no network input."""
        return {name: layer for layer in self.layers for name in layer.outputs}

    @cached_property
    def readers(self) -> dict[str, tuple[ParsedLayer, ...]]:
        """Of each tensor that is read."""
        found: dict[str, list[ParsedLayer]] = {}
        for layer in self.layers:
            for name in dict.fromkeys(layer.inputs):
                found.setdefault(name, []).append(layer)
        return {name: tuple(layers) for name, layers in found.items()}


def parsed_network(trt: Module, network: INetworkDefinition) -> ParsedNetwork:
    """Raises BuildFailed where two tensors share a name, or one has none."""
    reader = _Reader(trt)
    for index in range(network.num_inputs):
        reader.read_tensor(network.get_input(index))
    layers = tuple(reader.read_layer(network.get_layer(index)) for index in range(network.num_layers))
    return ParsedNetwork(layers, reader.tensors)


class _Reader:
    def __init__(self, trt: Module) -> None:
        self.tensors: dict[str, ITensor] = {}
        self._trt = trt
        self._floats = (trt.DataType.FLOAT, trt.DataType.HALF)
        self._operations: dict[str, tuple[type, Callable[[Any], str]]] = {
            "ACTIVATION": (trt.IActivationLayer, _activation),
            "ELEMENTWISE": (trt.IElementWiseLayer, _element_wise),
            "POOLING": (trt.IPoolingLayer, _pooling),
            "REDUCE": (trt.IReduceLayer, _reduce),
            "RESIZE": (trt.IResizeLayer, _resize),
            "UNARY": (trt.IUnaryLayer, _unary),
        }

    def read_tensor(self, tensor: ITensor) -> str | None:
        """Remembers a float tensor that is a network input or written by a layer; None for any other."""
        name = self._float_name(tensor)
        if name in self.tensors:
            raise BuildFailed(f"two tensors of the network are called {name!r}: a range would reach one of them")
        if name is not None:
            self.tensors[name] = tensor
        return name

    def read_layer(self, layer: ILayer) -> ParsedLayer:
        kind = str(layer.type.name)
        inputs = [self._float_name(layer.get_input(index)) for index in range(layer.num_inputs)]
        outputs = [self.read_tensor(layer.get_output(index)) for index in range(layer.num_outputs)]
        if kind in self._operations:
            kind = f"{kind} {self._as_its_class(layer, *self._operations[kind])}"
        constant = self._as_its_class(layer, self._trt.IConstantLayer, _amax) if kind == "CONSTANT" else None
        return ParsedLayer(
            str(layer.name),
            kind,
            tuple(name for name in inputs if name is not None),
            tuple(name for name in outputs if name is not None),
            constant,
        )

    def _float_name(self, tensor: ITensor) -> str | None:
        if tensor is None or tensor.dtype not in self._floats or tensor.is_shape_tensor:
            return None
        if not tensor.name:
            raise BuildFailed("a tensor of the network has no name: no range can be bound to it")
        return str(tensor.name)

    def _as_its_class(self, layer: ILayer, layer_class: type, read: Callable[[Any], Read]) -> Read:
        """TensorRT hands every layer out as an ILayer; its own members come with its own class, and another `type`."""
        layer.__class__ = layer_class
        try:
            return read(layer)
        finally:
            layer.__class__ = self._trt.ILayer


def _activation(layer: IActivationLayer) -> str:
    return str(layer.type.name)


def _element_wise(layer: IElementWiseLayer) -> str:
    return str(layer.op.name)


def _pooling(layer: IPoolingLayer) -> str:
    return str(layer.type.name)


def _reduce(layer: IReduceLayer) -> str:
    return str(layer.op.name)


def _resize(layer: IResizeLayer) -> str:
    return str(layer.resize_mode.name)


def _unary(layer: IUnaryLayer) -> str:
    return str(layer.op.name)


def _amax(layer: IConstantLayer) -> float:
    values = np.asarray(layer.weights)
    if values.dtype.kind != "f":
        return 0.0
    return float(np.abs(values.astype(np.float32)).max(initial=0.0))  # NaN stays NaN
