"""The command line of NVIDIA's own tool that builds the same engine, so that anybody can."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from engines.base import Target

Shapes = Mapping[str, Mapping[str, Sequence[int]]]
"""min, opt and max of one profile, by input."""

_HARDWARE = {"ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}


def trtexec_line(target: Target, precision: str, graph: str, engine: str, profiles: Sequence[Shapes]) -> str:
    """`trtexec …`, or `tensorrt_rtx …`, which is the same tool for TensorRT-RTX; shapes as the profiles have them."""
    words = ["tensorrt_rtx" if target.runtime == "tensorrt-rtx" else "trtexec", f"--onnx={graph}"]
    words += [f"--saveEngine={engine}", "--skipInference", *_options(target, precision)]
    for index, shapes in enumerate(profiles):
        if len(profiles) > 1:
            words.append(f"--profile={index}")
        words += [f"--{bound}Shapes={_shapes(shapes, bound)}" for bound in ("min", "opt", "max")]
    return shlex.join(words)


def _options(target: Target, precision: str) -> Iterator[str]:
    options = target.builder
    if target.runtime == "tensorrt-rtx":
        if target.compute_capabilities:
            numbers = (capability.replace(".", "") for capability in target.compute_capabilities)
            yield f"--computeCapabilities={','.join(numbers)}"
    else:
        yield "--stronglyTyped"
    if precision == "fp32":
        yield "--noTF32"
    if options.workspace_bytes is not None:
        yield f"--memPoolSize=workspace:{options.workspace_bytes >> 20}M"
    if options.optimization_level is not None:
        yield f"--builderOptimizationLevel={options.optimization_level}"
    if options.hardware_compatibility != "none":
        yield f"--hardwareCompatibilityLevel={_HARDWARE[options.hardware_compatibility]}"
    if options.dla_core is not None:
        yield f"--useDLACore={options.dla_core}"
    if options.timing_cache is not None:
        yield f"--timingCacheFile={options.timing_cache}"
    flags = {
        "--versionCompatible": options.version_compatible,
        "--excludeLeanRuntime": options.version_compatible,
        "--stripWeights": options.strip_weights,
        "--refit": options.refit,
        "--allowGPUFallback": options.gpu_fallback,
        "--errorOnTimingCacheMiss": options.reproducible,
    }
    yield from (flag for flag, on in flags.items() if on)


def _shapes(shapes: Shapes, bound: str) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, sizes[bound]))}" for name, sizes in shapes.items())
