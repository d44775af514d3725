"""Whether an engine will load on a device, by what NVIDIA documents: yes, no, or unknown, each with its reasons.

TensorRT has no call that says so without loading (support matrix of 11.4.1: "no separate compatibility preflight API").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engines.base import Target
from engines.device import Device
from engines.plan import PlanHeader, Version, version_text

Verdict = Literal["yes", "no", "unknown"]
_WORST_FIRST: tuple[Verdict, ...] = ("no", "unknown", "yes")

PORTABLE_RTX = ("8.6", "8.9", "12.0", "12.1")
"""Where an engine loads that names none: NVIDIA, TensorRT for RTX, table of compute capability configurations."""

_LATER_MAJOR = {8: 10, 10: 11}
"""Of a version-compatible plan: the one other major version that runs it (support matrix of TensorRT 11.4.1)."""


@dataclass(frozen=True)
class EngineFacts:
    """What decides about an engine; None is unknown."""

    runtime: str
    version: Version
    system: str | None
    architecture: str | None
    compute_capabilities: tuple[str, ...] | None
    """Named for the build, or of the GPU that it was built on; empty: portable, and None where nobody recorded it."""
    gpu: str | None = None
    """The name of the GPU that it was built on."""
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    dla_core: int | None = None


@dataclass(frozen=True)
class Finding:
    """What one rule says."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Answer:
    """`no` where a rule says no, else `unknown` where one does not know, else `yes`."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """Of the rules that decided."""


def will_load(engine: EngineFacts, device: Device) -> Answer:
    """All rules, the worst of which decides."""
    found = [finding for rule in _RULES for finding in rule(engine, device)]
    for verdict in _WORST_FIRST:
        if reasons := tuple(each.reason for each in found if each.verdict == verdict):
            return Answer(verdict, reasons)
    return Answer("unknown", ("no rule speaks of it",))


def facts_of(header: PlanHeader, target: Target, built_on: Mapping[str, Any] | None = None) -> EngineFacts:
    """From the plan's header and the target that it was built for; `built_on` is the machine of a manifest."""
    machine = built_on or {}
    named: tuple[str, ...] | None = target.compute_capabilities
    if not named and header.runtime == "tensorrt":
        here = machine.get("compute_capability")
        named = None if here is None else (str(here),)
    return EngineFacts(
        runtime=header.runtime,
        version=header.version,
        system=machine.get("system"),
        architecture=machine.get("architecture"),
        compute_capabilities=named,
        gpu=machine.get("gpu"),
        version_compatible=target.builder.version_compatible,
        hardware_compatibility=target.builder.hardware_compatibility,
        dla_core=target.builder.dla_core,
    )


def _platform(engine: EngineFacts, device: Device) -> Iterator[Finding]:
    """TensorRT's engines are not portable across platforms (support matrix); TensorRT-RTX's are across systems."""
    across_systems = engine.runtime == "tensorrt-rtx"
    for what, built, there in (
        ("system", device.system if across_systems else engine.system, device.system),
        ("architecture", engine.architecture, device.architecture),
    ):
        if built is None:
            yield Finding("unknown", f"nobody recorded the {what} that it was built on")
        elif built != there and across_systems:
            yield Finding("unknown", f"it was built on {built}; whether it loads on {there} is not documented")
        elif built != there:
            yield Finding("no", f"it was built on {built}, and the device's {what} is {there}: engines do not travel")


def _version(engine: EngineFacts, device: Device) -> Iterator[Finding]:
    """The same version; later ones only of version-compatible plans of TensorRT's."""
    text = device.runtimes.get(engine.runtime)
    if text is None:
        yield Finding("no", f"{engine.runtime} is not installed there")
        return
    there = _numbers(text)
    if not there:
        yield Finding("unknown", f"nobody recorded which {engine.runtime} is installed there")
        return
    built = engine.version[: len(there)]
    name = f"{engine.runtime} {version_text(engine.version)}"
    if built == there:
        yield Finding("yes", f"both are {engine.runtime} {text}")
    elif engine.runtime == "tensorrt-rtx":
        yield Finding("no", f"it was built with {name}, the device has {text}; releases of TensorRT-RTX do not mix")
    elif not engine.version_compatible:
        yield Finding(
            "no", f"it was built with {name}, the device has {text}; without version_compatible both must match"
        )
    elif there < built or there[0] not in (built[0], _LATER_MAJOR.get(built[0])):
        yield Finding(
            "no", f"it was built with {name}, and TensorRT {text} does not run version-compatible plans of that"
        )
    else:
        lean = f"the lean runtime of {version_text(engine.version)}"
        yield Finding("unknown", f"it is version-compatible and brings no runtime: the device needs {lean}")


def _gpu(engine: EngineFacts, device: Device) -> Iterator[Finding]:
    there, named = device.compute_capability, engine.compute_capabilities
    if there is None:
        yield Finding("no", "the device shows no GPU to this process")
    elif engine.runtime == "tensorrt-rtx":
        yield _rtx_gpu(named, there)
    elif engine.hardware_compatibility == "ampere_plus":
        fits = _numbers(there) >= (8, 0)
        yield Finding("yes" if fits else "no", f"it loads on compute capability 8.0 and newer, the device's is {there}")
    elif named is None:
        yield Finding("unknown", "nobody recorded the GPU that it was built on")
    elif there not in named:
        yield Finding("no", f"it was built for compute capability {', '.join(named)}, the device's is {there}")
    elif engine.hardware_compatibility == "none" and None not in (engine.gpu, device.gpu) and engine.gpu != device.gpu:
        yield Finding(
            "unknown", f"it was built on {engine.gpu}, the device has {device.gpu}: another model may refuse it"
        )
    else:
        yield Finding("yes", f"it was built for compute capability {there}")


def _rtx_gpu(named: tuple[str, ...] | None, there: str) -> Finding:
    if named is None:
        return Finding("unknown", "nobody recorded the compute capabilities that it names")
    if named:
        fits = there in named
        return Finding(
            "yes" if fits else "no", f"it names compute capability {', '.join(named)}, the device's is {there}"
        )
    if there in PORTABLE_RTX:
        return Finding("yes", f"a portable engine loads on {', '.join(PORTABLE_RTX)}, and the device's is {there}")
    if _numbers(there) < (8, 0):
        return Finding("no", f"a portable engine loads on Ampere and later, and the device's GPU is {there}")
    return Finding(
        "unknown", f"portable engines are documented for {', '.join(PORTABLE_RTX)}, the device's GPU is {there}"
    )


def _dla(engine: EngineFacts, device: Device) -> Iterator[Finding]:
    if engine.dla_core is None:
        return
    if device.dla_cores is None:
        yield Finding("unknown", "the device does not tell how many DLA cores it has")
    elif device.dla_cores <= engine.dla_core:
        yield Finding("no", f"it is for DLA core {engine.dla_core}, and the device has {device.dla_cores}")


_RULES: tuple[Callable[[EngineFacts, Device], Iterator[Finding]], ...] = (_platform, _version, _gpu, _dla)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:4] if part.isdigit())
