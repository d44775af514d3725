"""`[build.targets.<name>]`: what a target may ask for, and what of it contradicts itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from engines import ENGINES, PRECISIONS
from engines.base import BATCH, INT8_PRECISIONS, INT8_SOURCES, Target
from engines.builder_options import HARDWARE_COMPATIBILITY, BuilderOptions
from engines.execution_provider import NEVER_BUILDS
from engines.presets import PRESETS
from engines.run_options import GRAPH_OPTIMIZATIONS, PROVIDERS, RunOptions
from pipeline.building.axis_sizes import AxisSizes, Profile, axis_profile
from pipeline.names import checked_distinct, unknown

BFLOAT16_OPSET = 22
"""The first in which convolutions take BF16."""


def _checked_axes(axes: Mapping[str, AxisSizes]) -> Mapping[str, AxisSizes]:
    if BATCH in axes:
        raise ValueError(f"the sizes of '{BATCH}' have a key of their own: {BATCH} = {{ min = …, opt = …, max = … }}")
    return axes


def _checked_capability(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,2}\.[0-9]", value):
        raise ValueError(f"'{value}' is no compute capability; write it with its point, such as 8.6 or 12.0")
    return value


def _one_of(what: str, known: Iterable[str]) -> AfterValidator:
    names = tuple(known)

    def checked(value: str) -> str:
        if value not in names:
            raise ValueError(unknown(what, value, names))
        return value

    return AfterValidator(checked)


Capability = Annotated[str, AfterValidator(_checked_capability)]


class TargetSettings(BaseModel):
    """`[build.targets.<name>]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Annotated[str, _one_of("preset", PRESETS)] | None = None
    """A device by name, whose settings hold where nothing else is said; `edgestill targets` lists them."""
    runtime: Annotated[str, _one_of("runtime", ENGINES)]
    precisions: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(checked_distinct)] = ("fp32",)
    compute_capabilities: Annotated[tuple[Capability, ...], AfterValidator(checked_distinct)] = ()
    """Such as `8.6`; empty: portable (tensorrt-rtx) or the GPU at hand (tensorrt)."""
    batch: Profile = Profile()
    axes: Annotated[Mapping[str, AxisSizes], AfterValidator(_checked_axes)] = {}
    """Of the dynamic axes other than the batch, by name."""
    profiles: tuple[Mapping[str, AxisSizes], ...] = ()
    """More of them: each names the axes, `batch` among them, whose sizes differ from `batch` and `axes`."""
    input: Literal["uint8-nhwc"] | None = None
    """Takes the bytes of images, (batch, height, width, channels), with layout and normalization inside the engine."""
    opset: Annotated[int, Field(ge=13, le=25)] | None = None
    """The newest that the device's runtime reads."""
    workspace_mb: PositiveInt | None = None
    """Scratch memory that a TensorRT engine may take, in MiB."""
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    hardware_compatibility: Annotated[str, _one_of("hardware_compatibility", HARDWARE_COMPATIBILITY)] = "none"
    version_compatible: bool = False
    strip_weights: bool = False
    refit: bool = False
    dla_core: Annotated[int, Field(ge=0)] | None = None
    gpu_fallback: bool = False
    timing_cache: str | None = None
    reproducible: bool = False
    cuda_graph: bool = False
    """A session captures TensorRT's work in a CUDA graph and launches it in one call while shapes repeat."""
    spin_wait: bool = True
    """A session waits for the GPU on a busy core; without it the thread sleeps."""
    provider: Annotated[str, _one_of("provider", PROVIDERS)] = "cpu"
    """Of onnxruntime's: what runs its engines, for certain."""
    graph_optimization: Annotated[str, _one_of("graph_optimization", GRAPH_OPTIMIZATIONS)] = "all"
    """How far onnxruntime may rewrite the graph."""
    int8: Annotated[str, _one_of("int8", INT8_SOURCES)] = "qdq"
    """What says which tensors are INT8: `qdq`, the graph itself, or `ranges`, a table beside the FP32 graph."""
    optional: bool = False
    """Where this machine cannot build it, the report says why instead of the run stopping."""

    @field_validator("precisions")
    @classmethod
    def _known_precisions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for precision in value:
            if precision not in PRECISIONS:
                raise ValueError(unknown("precision", precision, PRECISIONS))
        return value

    @model_validator(mode="after")
    def _runtime_takes_it(self) -> TargetSettings:
        engine = ENGINES[self.runtime]
        never = NEVER_BUILDS[self.provider] if self.runtime == "onnxruntime" else engine.never_builds
        for precision in self.precisions:
            if precision in never:
                raise ValueError(f"{never[precision]}; take '{precision}' out of precisions")
        if engine.for_gpu and (asked := self._asked(_FOR_ONNXRUNTIME)):
            raise ValueError(f"{asked[0]} is for onnxruntime, the runtime is {self.runtime}; take it out")
        if not engine.for_gpu and (asked := self._asked(_FOR_TENSORRT)):
            runs_on = "runs on a CPU" if self.provider == "cpu" else "takes any batch and builds nothing for one"
            raise ValueError(f"{asked[0]} is for GPUs, {self.runtime} {runs_on}; take it out")
        if self.profiles and len({frozenset(profile.items()) for profile in self.profiles}) < len(self.profiles):
            raise ValueError("profiles holds one twice; give each once")
        if "bf16" in self.precisions and self.opset is not None and self.opset < BFLOAT16_OPSET:
            raise ValueError(
                f"bf16 needs opset {BFLOAT16_OPSET} and opset is {self.opset}; take 'bf16' out of precisions"
            )
        if self.int8 != "qdq" and not set(INT8_PRECISIONS) & set(self.precisions):
            raise ValueError(f"int8 = '{self.int8}' is for {' and '.join(INT8_PRECISIONS)}; add one, or take int8 out")
        if self.int8 == "ranges" and self.input is not None:
            raise ValueError(
                f"int8 = 'ranges' has no range for what input = '{self.input}' puts in front; take one of both out"
            )
        return self

    def _asked(self, keys: Iterable[str]) -> list[str]:
        """Those that are not as they are by themselves; a profile has a default, so its value does not tell."""
        fields = type(self).model_fields
        given = [key for key in keys if key in self.model_fields_set]
        return [key for key in given if key == BATCH or getattr(self, key) != fields[key].default]

    def takes_batch(self, size: int) -> bool:
        """Whether its engines run a batch of this size."""
        if not ENGINES[self.runtime].for_gpu:
            return True
        batches: list[Profile | AxisSizes] = [self.batch]
        batches += [profile[BATCH] for profile in self.profiles if BATCH in profile]
        return any(batch.min <= size <= batch.max for batch in batches)

    def target(self, name: str, threads: int) -> Target:
        """What the engine is told."""
        return Target(
            name=name,
            runtime=self.runtime,
            precisions=self.precisions,
            compute_capabilities=self.compute_capabilities,
            batch=axis_profile(self.batch),
            axes={name: axis_profile(sizes) for name, sizes in self.axes.items()},
            more_profiles=tuple(
                {name: axis_profile(sizes) for name, sizes in profile.items()} for profile in self.profiles
            ),
            opset=self.opset,
            input=self.input,
            builder=self._builder_options(),
            threads=threads,
            optional=self.optional,
            running=RunOptions(self.cuda_graph, self.spin_wait, self.provider, self.graph_optimization),
            int8=self.int8,
        )

    def _builder_options(self) -> BuilderOptions:
        return BuilderOptions(
            workspace_bytes=None if self.workspace_mb is None else self.workspace_mb << 20,
            optimization_level=self.optimization_level,
            version_compatible=self.version_compatible,
            hardware_compatibility=self.hardware_compatibility,
            strip_weights=self.strip_weights,
            refit=self.refit,
            dla_core=self.dla_core,
            gpu_fallback=self.gpu_fallback,
            timing_cache=self.timing_cache,
            reproducible=self.reproducible,
        )


_FOR_ONNXRUNTIME = ("provider", "graph_optimization")
_FOR_ANY = ("preset", "runtime", "precisions", "input", "opset", "optional")
_FOR_TENSORRT = tuple(name for name in TargetSettings.model_fields if name not in (*_FOR_ANY, *_FOR_ONNXRUNTIME))


def missing_profiles(settings: TargetSettings, dynamic: Iterable[str]) -> list[str]:
    """What a target must still say, given the dynamic axes of the export: a sentence for each axis without sizes."""
    if not ENGINES[settings.runtime].for_gpu:
        return []
    return [
        f"axis '{name}' is dynamic ([export] dynamic), and {settings.runtime} has to know its sizes: "
        f"add axes.{name} = {{ min = …, opt = …, max = … }}"
        for name in dynamic
        if name != BATCH and name not in settings.axes
    ]


def unused_profiles(settings: TargetSettings, dynamic: Iterable[str]) -> list[str]:
    """What a target says in vain, given the dynamic axes of the export: a sentence for each axis that is not one."""
    axes = tuple(dynamic)
    return [
        f"axes.{name} is for an axis that [export] leaves fixed; take it out, or add '{name}' to [export] dynamic"
        for name in dict.fromkeys((*settings.axes, *(each for profile in settings.profiles for each in profile)))
        if name not in (BATCH, *axes)
    ]
