"""What of a target's settings a runtime builds on no machine, said before anything is built."""

from __future__ import annotations

from engines.base import INT8_PRECISIONS, Target
from engines.builder_options import BuilderOptions

TURING = "7.5"
_BF16_CAPABILITY = (8, 0)  # Ampere: the first GPUs that multiply BF16
_FP8_CAPABILITY = (8, 9)  # Ada: the first GPUs that multiply FP8

_RTX_OPTIONS = {
    "version_compatible": "its plans hold no runtime and it has no lean one",
    "hardware_compatibility": "compute_capabilities says which GPUs its engines load on",
    "strip_weights": "without a lean runtime its builder fails",
    "refit": "without a lean runtime its builder fails",
    "dla_core": "a Jetson's DLA is for the runtime 'tensorrt'",
    "gpu_fallback": "a Jetson's DLA is for the runtime 'tensorrt'",
    "timing_cache": "it times nothing when it builds: kernels are chosen on the device",
    "reproducible": "it times nothing when it builds: kernels are chosen on the device",
}

_DLA_PRECISIONS = ("fp16", "int8", "int8+fp16")
_DLA_UNTIL, _DLA_AGAIN = (10, 7), (11, 4, 1)
_THOR = "11.0"
_STRONGLY_TYPED_ALONE = (11,)
_QDQ_INSTEAD = 'set int8 = "qdq", which takes its INT8 from the Q/DQ graph'


def multiplies_fp8(compute_capability: str) -> bool:
    """Whether such a GPU has FP8 products."""
    return tuple(map(int, compute_capability.split("."))) >= _FP8_CAPABILITY


def computes_bfloat16(compute_capability: str) -> bool:
    """Whether such a GPU has BF16 products."""
    return tuple(map(int, compute_capability.split("."))) >= _BF16_CAPABILITY


def what_rtx_refuses(target: Target) -> str | None:
    """Of TensorRT-RTX, whatever its version: measured with 1.7, see its support matrix."""
    for option in target.builder.asked():
        if option in _RTX_OPTIONS:
            return f"TensorRT-RTX has no {option}: {_RTX_OPTIONS[option]}; take it out"
    if TURING in target.compute_capabilities:
        for precision in ("fp32", "tf32"):
            if precision in target.precisions:
                return (
                    f"compute capability {TURING} takes no {precision} with TensorRT-RTX, whose FP32 products need 8.0 "
                    f"or newer; take '{precision}' out of its precisions, or {TURING} out of its compute_capabilities"
                )
    if any(map(target.takes_ranges, target.precisions)):
        return f"TensorRT-RTX takes no ranges beside a graph; {_QDQ_INSTEAD}"
    return _fp8_refused(target) or _bf16_refused(target)


def what_tensorrt_refuses(target: Target, version: str | None) -> str | None:
    """Of TensorRT of a version, as far as that is known: what contradicts itself, and what no such device has."""
    options = target.builder
    if (refused := _unreproducible(options) or _bf16_refused(target)) is not None:
        return refused
    if options.gpu_fallback and options.dla_core is None:
        return "gpu_fallback is for layers that a DLA cannot run: name the DLA with dla_core, or take it out"
    number = () if version is None else tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if options.dla_core is not None and (refused := _dla_refused(target, version, number)) is not None:
        return refused
    if number >= _STRONGLY_TYPED_ALONE and any(map(target.takes_ranges, target.precisions)):
        return f"TensorRT {version} takes no ranges beside a graph, which ended with 10.x; {_QDQ_INSTEAD}"
    return None


def _unreproducible(options: BuilderOptions) -> str | None:
    if not options.reproducible:
        return None
    if options.timing_cache is None:
        return "reproducible takes every tactic from a timing cache: name its file with timing_cache"
    if "{" in options.timing_cache:
        return "reproducible takes every tactic from one file: write the device and the version into timing_cache"
    return None


def _dla_refused(target: Target, version: str | None, number: tuple[int, ...]) -> str | None:
    others = [precision for precision in target.precisions if precision not in _DLA_PRECISIONS]
    if others:
        return f"a DLA computes in FP16 and INT8 alone; take '{others[0]}' out of its precisions"
    if _THOR in target.compute_capabilities:
        return "Jetson Thor has no DLA; take dla_core and gpu_fallback out"
    if target.builder.hardware_compatibility != "none":
        return "an engine for a DLA loads on its own device alone; take hardware_compatibility out"
    if number and number[:2] > _DLA_UNTIL and number < _DLA_AGAIN:
        return f"TensorRT {version} has no DLA, which ended with 10.7 and is back in 11.4.1 on AGX Orin alone"
    pairs = [each for each in target.precisions if each in INT8_PRECISIONS and not target.takes_ranges(each)]
    if number and number < _STRONGLY_TYPED_ALONE and pairs:
        return (
            f"the DLA of TensorRT {version} takes no Q/DQ pairs: its INT8 comes from ranges beside the FP32 graph; "
            f"add int8 = \"ranges\", or take '{pairs[0]}' out of its precisions"
        )
    return None


def _fp8_refused(target: Target) -> str | None:
    if "fp8" not in target.precisions:
        return None
    older = [each for each in target.compute_capabilities if not multiplies_fp8(each)]
    if target.compute_capabilities and not older:
        return None
    asked = f"compute capability {', '.join(older)} has" if older else "a portable engine would run on GPUs that have"
    return f"{asked} no FP8, which begins with 8.9; name newer ones in compute_capabilities, or take 'fp8' out"


def _bf16_refused(target: Target) -> str | None:
    older = [each for each in target.compute_capabilities if not computes_bfloat16(each)]
    if "bf16" not in target.precisions or not older:
        return None
    return (
        f"compute capability {', '.join(older)} has no BF16, which begins with 8.0; take 'bf16' out of its precisions, "
        f"or {older[0]} out of its compute_capabilities"
    )
