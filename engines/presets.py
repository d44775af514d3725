"""Devices by name: the runtime and compute capability of each, and where that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engines.builder_options import BuilderOptions

_RTX = "TensorRT for RTX support matrix, and what its builder takes: 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"
_CAPABILITIES = "NVIDIA, CUDA GPU compute capability (developer.nvidia.com/cuda-gpus)"
_JETPACK = "NVIDIA, JetPack SDK archive: JetPack 6 has TensorRT 10.3, JetPack 7 has TensorRT 10.13 and newer"
_DLA = "NVIDIA, TensorRT release notes: DLA up to 10.7, with implicit INT8 alone, and again in 11.4.1 on AGX Orin"


@dataclass(frozen=True)
class Preset:
    """What a target is where its recipe says no more than the device."""

    device: str
    runtime: str
    precisions: tuple[str, ...]
    compute_capabilities: tuple[str, ...] = ()
    """Empty: portable, or not a GPU."""
    builder: BuilderOptions = field(default_factory=BuilderOptions)
    int8: str = "qdq"
    """Of `engines.base.INT8_SOURCES`."""
    opset: int | None = None
    """The newest that its runtime reads; None: whatever the export writes."""
    source: str = ""


PRESETS: Mapping[str, Preset] = {
    "cpu": Preset("the CPU here", "onnxruntime", ("fp32", "int8"), source="onnxruntime's CPU provider"),
    "rtx-portable": Preset("RTX since Ampere", "tensorrt-rtx", ("fp16",), source=_RTX),
    "rtx-4090": Preset("RTX 4090", "tensorrt-rtx", ("fp16",), ("8.9",), source=f"{_RTX}; {_CAPABILITIES}"),
    "dgx-spark": Preset("GB10", "tensorrt-rtx", ("fp16",), ("12.1",), source=f"{_RTX}; {_CAPABILITIES}"),
    "t4": Preset("T4", "tensorrt-rtx", ("fp16",), ("7.5",), source=f"{_RTX}; {_CAPABILITIES}"),
    "l4": Preset("L4", "tensorrt-rtx", ("fp16",), ("8.9",), source=f"{_RTX}; {_CAPABILITIES}"),
    "a100": Preset("A100", "tensorrt-rtx", ("fp16",), ("8.0",), source=f"{_RTX}; {_CAPABILITIES}"),
    "h100": Preset("H100", "tensorrt", ("fp16", "int8+fp16"), ("9.0",), source=_CAPABILITIES),
    "orin-nano": Preset("Orin Nano", "tensorrt", ("fp16", "int8+fp16"), ("8.7",), source=_JETPACK),
    "orin-nx": Preset("Orin NX", "tensorrt", ("fp16", "int8+fp16"), ("8.7",), source=_JETPACK),
    "agx-orin": Preset("AGX Orin", "tensorrt", ("fp16", "int8+fp16"), ("8.7",), source=_JETPACK),
    "agx-orin-dla": Preset(
        "AGX Orin, DLA 0 and GPU",
        "tensorrt",
        ("fp16", "int8+fp16"),
        ("8.7",),
        BuilderOptions(dla_core=0, gpu_fallback=True),
        int8="ranges",
        opset=17,
        source=f"{_JETPACK}; {_DLA}",
    ),
    "thor": Preset("Jetson Thor", "tensorrt", ("fp16", "int8+fp16"), ("11.0",), source=f"{_JETPACK}; {_CAPABILITIES}"),
}
