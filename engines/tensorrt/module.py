"""The two Python modules that speak TensorRT's API, and how they differ: asked of the module, by feature."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engines.errors import BuildFailed, RuntimeMissing
from engines.tensorrt.api import Builder, IBuilderConfig, Module
from engines.tensorrt.log import recording


@dataclass(frozen=True)
class RuntimeModule:
    """A Python module of NVIDIA's: what it is called and how to get it."""

    name: str
    how_to_get: Callable[[], str]

    def version(self) -> str | None:
        """Of the installed distribution; None where there is none. Imports nothing."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def load(self) -> Module:
        """Imports it; raises RuntimeMissing. The `tensorrt` wheel can be a stub whose libraries are elsewhere."""
        try:
            return importlib.import_module(self.name)
        except Exception as error:  # a stub whose libraries are missing raises more than ImportError
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise RuntimeMissing(f"{self.name} cannot be imported here ({reason[0]}): {self.how_to_get()}") from error

    def why_missing(self) -> str | None:
        try:
            self.load()
        except RuntimeMissing as error:
            return str(error)
        return None


def count_dla_cores(trt: Module) -> int:
    """Deep learning accelerators of this machine."""
    with recording(trt) as (logger, _):
        builder: Builder = trt.Builder(logger)
        return int(builder.num_DLA_cores)


def known_compute_capabilities(trt: Module) -> dict[str, str]:
    """Those that a build can name, such as {`8.6`: `SM86`}; empty where it builds for the GPU at hand alone."""
    if not can_name_compute_capabilities(trt):
        return {}
    found = (re.fullmatch(r"SM(\d+)(\d)", name) for name in trt.ComputeCapability.__members__)
    return {f"{match[1]}.{match[2]}": match[0] for match in found if match}


def captures_graphs_itself(trt: Module) -> bool:
    """TensorRT-RTX does, once its kernels for a shape are compiled; TensorRT leaves capturing to its caller."""
    return hasattr(trt, "CudaGraphStrategy")


def can_name_compute_capabilities(trt: Module) -> bool:
    """TensorRT-RTX can; TensorRT up to 11.1 cannot."""
    return hasattr(trt, "ComputeCapability")


def name_compute_capabilities(trt: Module, config: IBuilderConfig, wanted: Sequence[str]) -> list[str]:
    """Sets them where the module can, and returns what the builder then says they are."""
    if not can_name_compute_capabilities(trt):
        return list(wanted)  # the engine has made sure that it is the GPU at hand
    words: Mapping[str, str] = known_compute_capabilities(trt)
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        config.set_compute_capability(getattr(trt.ComputeCapability, words[capability]), index)
    names = {getattr(trt.ComputeCapability, word): capability for capability, word in words.items()}
    realized = [names.get(config.get_compute_capability(index)) for index in range(config.num_compute_capabilities)]
    if realized != list(wanted):
        raise BuildFailed(
            f"the builder did not take the compute capabilities {', '.join(wanted)}: it has {realized}; name fewer"
        )
    return list(wanted)
