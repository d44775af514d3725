"""A whole build as TensorRT 10.3 would do it: parser, builder and config with the members of its API alone.

It parses the few operators that the tests use, and runs a product in INT8 where the flag is set and its activation has
a range. Its plan is what it was told, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
from fake_tensorrt import MODULE, ILayer, INetworkDefinition, ITensor, enum_of, with_the_members_of_the_api

KINDS = {
    "Conv": "CONVOLUTION",
    "Relu": "ACTIVATION RELU",
    "Add": "ELEMENTWISE SUM",
    "GlobalAveragePool": "POOLING AVERAGE",
}
WORDS = {"int8": "Thirty-two wide channel vectorized row major Int8 format", "fp16": "Row major linear FP16"}
BuilderFlag, DeviceType, MemoryPoolType = map(enum_of, ("BuilderFlag", "DeviceType", "MemoryPoolType"))
CreationFlag = enum_of("NetworkDefinitionCreationFlag")
ProfilingVerbosity, HardwareCompatibilityLevel = map(enum_of, ("ProfilingVerbosity", "HardwareCompatibilityLevel"))


@with_the_members_of_the_api
class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: object, msg: str) -> None:
        raise NotImplementedError


@with_the_members_of_the_api
class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


@with_the_members_of_the_api
class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        del logger

    num_errors = 0

    def parse_from_file(self, model: str) -> bool:
        graph = onnx.load(model).graph
        weights = {each.name for each in graph.initializer}
        tensors = {each.name: ITensor(each.name, dims=_dims(each)) for each in graph.input}
        self._network._inputs = list(tensors.values())
        layers = []
        for node in graph.node:
            read = [tensors[name] for name in node.input if name not in weights]
            made = [tensors.setdefault(name, ITensor(name)) for name in node.output]
            layers.append(ILayer(KINDS[node.op_type], node.name, read, made))
        self._network._layers = layers
        return True


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]


@with_the_members_of_the_api
class IOptimizationProfile:
    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        del input, min, opt, max


@with_the_members_of_the_api
class IBuilderConfig:
    """Keeps what it is told, but for the flags in `_refused`: TensorRT logs what it does not take."""

    _refused: frozenset[str] = frozenset()
    builder_optimization_level = 3
    default_device_type = DeviceType.GPU
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    progress_monitor: Any = None
    DLA_core = -1

    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}

    def set_flag(self, flag: Any) -> None:
        self._flags |= {flag} if flag.name not in self._refused else set()

    def clear_flag(self, flag: Any) -> None:
        self._flags -= {flag}

    def get_flag(self, flag: Any) -> bool:
        return flag in self._flags

    def get_memory_pool_limit(self, pool: Any) -> int:
        assert pool == MemoryPoolType.WORKSPACE
        return 1 << 30

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        del profile
        return 0


@with_the_members_of_the_api
class Builder:
    num_DLA_cores = 2  # noqa: N815 TensorRT's own name

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition([], [], flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes:
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        lines = (_realized(layer, config) for layer in layers if layer.type.name == "CONVOLUTION")
        self._logger.log(ILogger.VERBOSE, "\n".join(["Layers:", *lines]))
        inputs = (network.get_input(index) for index in range(network.num_inputs))
        tensors = [*inputs, *(layer.get_output(0) for layer in layers)]
        return json.dumps(told(network, config, tensors)).encode()


def _realized(layer: ILayer, config: IBuilderConfig) -> str:
    activation = layer.get_input(0)
    assert activation is not None
    int8 = config.get_flag(BuilderFlag.INT8) and activation.dynamic_range is not None
    word = WORDS["int8"] if int8 else WORDS["fp16"] if config.get_flag(BuilderFlag.FP16) else "Row major linear FP32"
    tensor = f"{{ Name: t, Location: Device, Dimensions: [1,16,8,8], Format/Datatype: {word} }}"
    weights = f'Weights: {{"Type": "{"Int8" if int8 else "Float"}", "Count": 2304}}'
    return (
        f"Name: {layer.name}, LayerType: CaskConvolution, Inputs: [ {tensor}], Outputs: [ {tensor}], {weights}, "
        f"Metadata: {layer.metadata}"
    )


def told(network: INetworkDefinition, config: IBuilderConfig, tensors: Sequence[ITensor]) -> Mapping[str, Any]:
    """What the plan holds: the flags that are on, the device, and the range of each tensor."""
    return {
        "strongly_typed": network.get_flag(CreationFlag.STRONGLY_TYPED),
        "flags": sorted(flag.name for flag in BuilderFlag if config.get_flag(flag)),
        "device": config.default_device_type.name,
        "ranges": {tensor.name: tensor.dynamic_range for tensor in tensors},
    }


TENSORRT = SimpleNamespace(
    **vars(MODULE),
    ILogger=ILogger,
    IProgressMonitor=IProgressMonitor,
    OnnxParser=OnnxParser,
    Builder=Builder,
    BuilderFlag=BuilderFlag,
    DeviceType=DeviceType,
    MemoryPoolType=MemoryPoolType,
    NetworkDefinitionCreationFlag=CreationFlag,
    ProfilingVerbosity=ProfilingVerbosity,
    HardwareCompatibilityLevel=HardwareCompatibilityLevel,
)
"""`import tensorrt`, as far as a build needs it."""


def told_to(plan: Path) -> Mapping[str, Any]:
    """What a plan of this builder holds."""
    found: Mapping[str, Any] = json.loads(plan.read_bytes())
    return found
