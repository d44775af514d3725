"""What the builder is told beside the network and its profiles, each read back: a rejected setting is only logged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.base import Target
from engines.builder_options import BuilderOptions
from engines.errors import BuildFailed
from engines.tensorrt.api import Builder, IBuilderConfig, Module
from engines.tensorrt.module import name_compute_capabilities


def configure(
    trt: Module, builder: Builder, config: IBuilderConfig, graph: Path, precision: str, target: Target
) -> dict[str, Any]:
    """Sets what the target asks for and returns what the builder then reads; raises BuildFailed where they differ."""
    options = target.builder
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    flags = {**_flags(trt, precision, options), **_implicit_flags(trt, precision, target)}
    for flag, on in flags.values():
        _set_flag(config, flag, on)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatibility != "none":
        config.hardware_compatibility_level = _level(trt, options.hardware_compatibility)
    if options.dla_core is not None:
        _use_accelerator(trt, builder, config, options.dla_core)
    settings = {
        "precision": precision,
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "detailed": config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED,
        "workspace_bytes": int(config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)),
        "optimization_level": int(config.builder_optimization_level),
        "hardware_compatibility": _realized_level(config, options),
        "dla_core": int(config.DLA_core) if config.default_device_type == trt.DeviceType.DLA else None,
        **{name: bool(config.get_flag(flag)) for name, (flag, _) in flags.items()},
        "compute_capabilities": name_compute_capabilities(trt, config, target.compute_capabilities),
    }
    _require_taken(settings, _wanted(flags, options), graph)
    return settings


def _flags(trt: Module, precision: str, options: BuilderOptions) -> dict[str, tuple[object, bool]]:
    """The flags that are not left as they are: by name, the flag and whether it is to be set."""
    found: dict[str, tuple[object, bool]] = {
        "version_compatible": (trt.BuilderFlag.VERSION_COMPATIBLE, options.version_compatible),
        # A plan that carries its runtime is code, which no session of ours loads.
        "exclude_lean_runtime": (trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME, options.version_compatible),
        "strip_weights": (trt.BuilderFlag.STRIP_PLAN, options.strip_weights),
        "refit": (trt.BuilderFlag.REFIT, options.refit),
        "gpu_fallback": (trt.BuilderFlag.GPU_FALLBACK, options.gpu_fallback),
        "reproducible": (trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS, options.reproducible),
    }
    asked: dict[str, tuple[object, bool]] = {name: (flag, on) for name, (flag, on) in found.items() if on}
    if precision in ("fp32", "tf32"):  # TF32 is on unless it is cleared
        asked["tf32"] = (trt.BuilderFlag.TF32, precision == "tf32")
    return asked


def _implicit_flags(trt: Module, precision: str, target: Target) -> dict[str, tuple[object, bool]]:
    """What a weakly typed network may run in beside FP32; no flag where the graph's own types say it."""
    if not target.takes_ranges(precision):
        return {}
    return {"int8": (trt.BuilderFlag.INT8, True), "fp16": (trt.BuilderFlag.FP16, precision == "int8+fp16")}


def _set_flag(config: IBuilderConfig, flag: object, on: bool) -> None:
    if on:
        config.set_flag(flag)
    else:
        config.clear_flag(flag)


def _level(trt: Module, name: str) -> object:
    if name == "ampere_plus":
        return trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if not hasattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"):
        raise BuildFailed(
            f"{trt.__name__} {trt.__version__} has no hardware_compatibility '{name}', which is newer; "
            "build with a newer one, or take it out"
        )
    return trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY


def _realized_level(config: IBuilderConfig, options: BuilderOptions) -> str:
    if options.hardware_compatibility == "none":  # TensorRT-RTX has none, and logs an error when it is asked
        return "none"
    return str(config.hardware_compatibility_level.name).lower()


def _use_accelerator(trt: Module, builder: Builder, config: IBuilderConfig, core: int) -> None:
    if core >= builder.num_DLA_cores:
        raise BuildFailed(
            f"this machine has {builder.num_DLA_cores} DLA cores, and dla_core {core} was asked for; cores count from 0"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core


def _wanted(flags: Mapping[str, tuple[object, bool]], options: BuilderOptions) -> dict[str, Any]:
    given = {
        "workspace_bytes": options.workspace_bytes,
        "optimization_level": options.optimization_level,
        "dla_core": options.dla_core,
    }
    return {
        "detailed": True,
        "hardware_compatibility": options.hardware_compatibility,
        **{name: on for name, (_, on) in flags.items()},
        **{name: value for name, value in given.items() if value is not None},
    }


def _require_taken(settings: Mapping[str, Any], wanted: Mapping[str, Any], graph: Path) -> None:
    refused = [
        f"{name} reads {settings[name]}, not {value}" for name, value in wanted.items() if settings[name] != value
    ]
    if refused:
        raise BuildFailed(f"{graph}: the builder did not take its settings: {', '.join(refused)}")
