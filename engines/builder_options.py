"""What a TensorRT builder is told beside the graph, its precision and its profiles."""

from __future__ import annotations

from dataclasses import dataclass, fields

HARDWARE_COMPATIBILITY = ("none", "ampere_plus", "same_compute_capability")
"""GPUs that an engine of TensorRT's loads on: the one that it was built on, its compute capability's, 8.0 and newer."""

OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True)
class BuilderOptions:
    """Each as TensorRT has it where it is left alone."""

    workspace_bytes: int | None = None
    """Scratch memory that an engine may take; None: the runtime's default."""
    optimization_level: int | None = None
    """0 (fastest build) to 5 (most tactics tried); None: the runtime's default."""
    version_compatible: bool = False
    """The plan loads in later versions of the same major one, through a lean runtime that the device has: none is
    inside the plan, because that would be code."""
    hardware_compatibility: str = "none"
    """Of `HARDWARE_COMPATIBILITY`."""
    strip_weights: bool = False
    """The plan is without the weights that a refit brings back."""
    refit: bool = False
    """Weights may be exchanged in the built engine."""
    dla_core: int | None = None
    """The deep learning accelerator that runs what it can; None: the GPU runs everything."""
    gpu_fallback: bool = False
    """What the accelerator cannot run goes to the GPU; without it such a layer fails the build."""
    timing_cache: str | None = None
    """File of measured tactics, read before and written after a build; `{device}` and `{version}` in its name stand for
    the GPU and TensorRT of the build."""
    reproducible: bool = False
    """Tactics come out of the timing cache alone: what is not in it fails the build."""

    def asked(self) -> tuple[str, ...]:
        """Names of the options that are not as TensorRT has them by itself."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) != each.default)
