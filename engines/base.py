"""What is built, for what, and how it is run: Target, Engine, Session.

Python 3.10 and numpy are enough for this folder: it is what travels to a device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engines.builder_options import BuilderOptions
from engines.run_options import Phases, RunConditions, RunOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.audit import RealizedLayer

Arrays = Mapping[str, "NDArray[np.generic]"]
"""Tensors by name, batch first."""

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "int8+fp16", "fp8")
"""What a target may be asked for, the reference first. TF32 is FP32's graph, whose products a GPU may round to 10 bits
of mantissa. Beside INT8 products runs FP32, or what follows the plus; beside those in FP8 runs FP16."""

FLOAT32_GRAPH = ("fp32", "tf32")
"""Those that are built from the exported graph itself."""

BATCH = "batch"
"""The name of the first axis of every input, whatever the graph calls it."""

UINT8_NHWC = "uint8-nhwc"
"""Bytes of images, (batch, height, width, channels): layout and normalization are inside the engine."""

QUANTIZED_PRECISIONS = ("int8", "int8+fp16", "fp8")
"""Those whose graph depends on the placement family."""

INT8_PRECISIONS = ("int8", "int8+fp16")

INT8_SOURCES = ("qdq", "ranges")
"""What says which tensors are INT8: the graph, by its Q/DQ pairs; or a table of ranges beside the FP32 graph, which is
TensorRT's implicit quantization: up to 10.x, and the only INT8 of its DLA there."""

StepDone = Callable[[str, int, int], bool]
"""Called with (phase, steps done, steps in all); returns False to cancel the work."""


@dataclass(frozen=True)
class AxisProfile:
    """Sizes of a dynamic axis that an engine takes, and the one it is tuned for; the defaults are a batch's."""

    min: int = 1
    opt: int = 8
    max: int = 64


@dataclass(frozen=True)
class Target:
    """One named place to ship to: a runtime and what to build for it."""

    name: str
    runtime: str
    """A key of `engines.ENGINES`: onnxruntime, tensorrt, tensorrt-rtx."""
    precisions: tuple[str, ...] = ("fp32",)
    """Of `PRECISIONS`; precision itself lives in the graph."""
    compute_capabilities: tuple[str, ...] = ()
    """Such as `8.6`; empty: portable (TensorRT-RTX) or the GPU at hand (TensorRT)."""
    batch: AxisProfile = field(default_factory=AxisProfile)
    axes: Mapping[str, AxisProfile] = field(default_factory=dict)
    """Of the dynamic axes other than the batch, by the name that the graph's dimensions carry."""
    more_profiles: tuple[Mapping[str, AxisProfile], ...] = ()
    """Each a further profile of a TensorRT engine: the axes that differ from `batch` and `axes`, by name."""
    opset: int | None = None
    """The newest that the runtime on the device reads; None: whatever the graph has."""
    builder: BuilderOptions = field(default_factory=BuilderOptions)
    threads: int = 1
    """Of a CPU session."""
    optional: bool = False
    running: RunOptions = field(default_factory=RunOptions)
    int8: str = "qdq"
    """Of `INT8_SOURCES`."""
    input: str | None = None
    """`UINT8_NHWC`, or None: what the graph takes."""

    def takes_ranges(self, precision: str) -> bool:
        """Whether an engine of this precision is built from the FP32 graph and a table of ranges."""
        return self.int8 == "ranges" and precision in INT8_PRECISIONS

    @property
    def profiles(self) -> tuple[dict[str, AxisProfile], ...]:
        """Each with all axes by name, the batch among them."""
        first = {BATCH: self.batch, **self.axes}
        return (first, *({**first, **other} for other in self.more_profiles))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Target:
        """What `dataclasses.asdict` made of a target, read back from JSON."""
        tuples = {name: tuple(document[name]) for name in ("precisions", "compute_capabilities")}
        shapes = {
            "batch": AxisProfile(**document["batch"]),
            "axes": _axis_profiles(document["axes"]),
            "more_profiles": tuple(_axis_profiles(each) for each in document["more_profiles"]),
        }
        options = {
            "builder": BuilderOptions(**document["builder"]),
            "running": RunOptions(**document.get("running", {})),
        }
        return cls(**{**document, **tuples, **shapes, **options})


def _axis_profiles(document: Mapping[str, Any]) -> dict[str, AxisProfile]:
    return {name: AxisProfile(**sizes) for name, sizes in document.items()}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an engine; a dynamic dimension is -1."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class BuiltEngine:
    """What a build left on disk, and what is known of it."""

    file: Path
    bytes: int
    sha256: str
    seconds: float
    layers: tuple[RealizedLayer, ...]
    """What was really built, in execution order."""
    versions: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Flags and options as read back from the builder."""
    log: tuple[str, ...] = ()
    """The builder's warnings, without known noise."""
    peak_memory_bytes: int | None = None
    """Of the process that built it, where it had one of its own; what it built before is in it."""


class Session(ABC):
    """A loaded engine. Not thread-safe; returned arrays belong to the caller. Use it as a context manager."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorInfo, ...]: ...

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorInfo, ...]: ...

    @abstractmethod
    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        """Blocks until the outputs are in host memory."""

    @property
    def conditions(self) -> RunConditions:
        """What the time of a run holds and depends on."""
        return RunConditions()

    def run_in_phases(self, feeds: Arrays) -> Phases | None:  # noqa: ARG002 sessions of a GPU use it
        """Runs once and says where the time went; None where a run has no phases."""
        return None

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Engine(ABC):
    """One runtime: how it builds a graph and opens what it built. Stateless."""

    runtime: ClassVar[str]
    suffix: ClassVar[str]
    """Of an engine file: `.onnx` or `.plan`."""
    family: ClassVar[str]
    """The Q/DQ placement family whose INT8 graph it takes: `cpu`, `tensorrt`, `tensorrt-rtx`."""
    for_gpu: ClassVar[bool]
    """Whether compute capabilities, a workspace and a batch profile shape its engines; others take any batch."""
    builds_apart: ClassVar[bool] = False
    """Whether a build gets a process of its own: its libraries may end the one that they are in."""
    times_tactics: ClassVar[bool] = False
    """Whether a build measures kernels on the device, which another build beside it would disturb."""
    never_builds: ClassVar[Mapping[str, str]] = {}
    """Precisions that it refuses on whatever machine, each with the reason."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that shape an engine; cheap, and empty where they are not installed."""

    def family_of(self, target: Target) -> str:  # noqa: ARG002 engines that place by target use it
        """The placement family whose INT8 graph a target takes."""
        return self.family

    def why_refused(self, target: Target) -> str | None:  # noqa: ARG002 engines that refuse settings use it
        """What of the target's settings this runtime builds on no machine; None where nothing or it cannot be told."""
        return None

    @abstractmethod
    def why_not_build(self, target: Target) -> str | None:
        """None where this machine can build for the target; else what it lacks and how to get it."""

    @abstractmethod
    def why_not_run(self, target: Target) -> str | None:
        """None where this machine can run an engine of the target; else what it lacks."""

    @abstractmethod
    def build(
        self,
        graph: Path,
        precision: str,
        target: Target,
        to: Path,
        on_step: StepDone | None = None,
        ranges: Path | None = None,
    ) -> BuiltEngine:
        """Compiles an ONNX file into the file `to`.

        `ranges` is the table of ranges of this very file, where the target takes one for the precision. Raises
        RuntimeMissing, BuildFailed or BuildCancelled; on any of them `to` does not exist.
        """

    @abstractmethod
    def open(self, engine: Path, sha256: str, target: Target) -> Session:
        """Verifies the file against its digest, then loads it.

        Raises EngineDamaged before a byte reaches the runtime, RuntimeMissing where it cannot run here.
        """
