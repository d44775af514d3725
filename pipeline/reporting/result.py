"""What a run found: the one model that every form of the report is made from."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from pipeline.reporting.audit_result import AuditSummary
from pipeline.reporting.layers_result import FamilyLayers, RepairResult
from pipeline.reporting.model import Count, Estimate, NonNegative, PositiveCount, Result

Verdict = Literal["ship", "do_not_ship", "inconclusive"]

Quantiles = Annotated[tuple[NonNegative, ...], Field(description="Evenly spaced from the minimum to the maximum")]


class ChainStep(Result):
    """One form of the network between teacher and engine; `accuracy` is the report's metric."""

    step: Literal["teacher", "baseline", "student", "onnx", "engine"]
    label: str
    precision: str = "fp32"
    parameters: Count | None = None
    bytes: Count | None = None
    accuracy: Estimate | None = None
    note: str = ""


class GpuRun(Result):
    """What a call on a GPU held, in trtexec's words: the phases are medians by the GPU's clock."""

    transfers: bool
    cuda_graph: bool
    spin_wait: bool
    h2d_ms: NonNegative | None = None
    gpu_compute_ms: NonNegative | None = None
    d2h_ms: NonNegative | None = None


class Latency(Result):
    """Time per call at one batch size; a percentile that the samples cannot support is None."""

    batch_size: PositiveCount
    threads: PositiveCount | None = None
    samples: PositiveCount
    p50_ms: NonNegative
    p50_low_ms: NonNegative
    p50_high_ms: NonNegative
    p90_ms: NonNegative | None = None
    p99_ms: NonNegative | None = None
    cv: NonNegative
    quantiles_ms: Quantiles = ()
    ratio_to_fp32: Estimate | None = None
    """Of the p50 values; under 1 is faster than FP32."""
    versus_fp32: Literal["faster", "slower", "inconclusive"] | None = None
    gpu: GpuRun | None = None
    """None where nothing ran on a GPU."""


class EngineResult(Result):
    """One engine that the recipe asked for: measured, built only, or not built, and then why."""

    target: str
    runtime: str
    precision: str
    optional: bool = False
    state: Literal["measured", "built", "not_built"]
    reason: str = ""
    """Why it was not measured, or not built; empty where it was measured."""
    failed: bool = False
    """Whether it was not built though this machine could and the target is not optional."""
    runs_on: str = ""
    """The GPUs that it was built for, in words."""
    file: str | None = None
    bytes: Count | None = None
    sha256: str | None = None
    takes: str = ""
    """Of its input, such as `uint8-nhwc`; empty where it takes what the network does."""
    parity: str = ""
    """How its answers stand beside its graph's, in words; empty where it does not run here."""
    audit: AuditSummary | None = None
    accuracy: Estimate | None = None
    accuracy_ratio_to_fp32: Estimate | None = None
    latency: tuple[Latency, ...] = ()
    peak_memory_bytes: Count | None = None

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.state != "measured" and not self.reason:
            raise ValueError(f"{self.target} {self.precision} is {self.state}, so it needs a reason")
        return self


class GateResult(Result):
    """One limit held against one engine or student; a unit stands in the name (`p50_ms`)."""

    name: str
    limit: float
    sense: Literal["at least", "at most"] = "at least"
    value: float | None = None
    state: Literal["passed", "failed", "inconclusive"]
    subject: str
    """What it was held against, such as `cpu int8`."""
    detail: str = ""


class StageResult(Result):
    name: str
    key: str
    seconds: NonNegative
    peak_memory_bytes: Count | None = None


class Finding(Result):
    """Something about the data, a graph or the measurement that a reader must know."""

    severity: Literal["note", "warning", "error"]
    message: str


class LossTerm(Result):
    """One term of the weighted sum that taught the student."""

    name: str
    formula: str
    paper: str = ""
    weight: float = 1.0
    schedule: str = ""
    """How the weight changes over the epochs, in words; empty where it does not."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """As the recipe has them, such as `temperature` and `alpha`."""


class Distillation(Result):
    """How the student was taught."""

    terms: tuple[LossTerm, ...] = ()
    teachers: PositiveCount = 1
    combination: Literal["", "average", "confidence"] = ""
    """How the outputs of several teachers become one."""
    epochs: PositiveCount | None = None
    """That were trained; early stopping makes them fewer than the recipe asks for."""
    best_epoch: PositiveCount | None = None
    compression_ratio: Annotated[float, Field(gt=0)] | None = None
    """Parameters of the teacher over parameters of the student."""
    teacher_outputs: str = ""
    """Where they came from, such as `computed live each step`."""
    optimizer: str = ""
    extras: tuple[str, ...] = ()
    """What else shaped the training, such as `EMA 0.999`."""


class Curve(Result):
    """Mean loss and validation metric after each epoch of one training: `teacher`, `teacher-2`, `student`, …"""

    phase: str
    epochs: Annotated[tuple[float, ...], Field(min_length=1)]
    loss: tuple[float, ...]
    validation: tuple[float, ...]
    best_epoch: float
    """The one whose weights were kept."""

    @model_validator(mode="after")
    def _one_value_an_epoch(self) -> Self:
        if not len(self.epochs) == len(self.loss) == len(self.validation):
            lengths = f"{len(self.epochs)} epochs, {len(self.loss)} losses and {len(self.validation)} validation values"
            raise ValueError(f"the curve of {self.phase} has {lengths}; each epoch needs one of both")
        if any(first >= second for first, second in pairwise(self.epochs)):
            raise ValueError(f"the epochs of {self.phase} do not rise")
        if self.best_epoch not in self.epochs:
            raise ValueError(f"the best epoch of {self.phase} is {self.best_epoch:g}, which is not one of its epochs")
        return self


class Trial(Result):
    """One student that the search trained; `validation` is the best that it reached, None where it has no value."""

    number: Count
    state: Literal["met", "complete", "pruned", "failed"]
    settings: dict[str, float | str] = Field(default_factory=dict)
    validation: float | None = None
    epochs: Count = 0
    chosen: bool = False
    """Whether this is the student that the run goes on with."""


class Search(Result):
    """The search for a student that meets a target on the validation split."""

    wanted: float
    wanted_as: str = ""
    """As it was asked for, such as `0.5 points below the teacher's 99.44 %`."""
    met: bool
    best: float | None = None
    """Of the trials; None where none came to a value."""
    trials: tuple[Trial, ...] = ()
    budget: str = ""
    stopped: str = ""
    """Why it stopped, in words."""


class Report(Result):
    """Everything that a run found, verdict included."""

    schema_version: Literal[1] = 1
    name: str
    task: str
    metric: str = "accuracy"
    """What `accuracy` means for the task, such as `mean IoU`; a fraction of 1, below 0 for a fit worse than none."""
    interval: str = ""
    """How the intervals of `accuracy` were found, such as `Wilson score`."""
    sample: str = "image"
    """What one sample of the data is called, in the singular."""
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    test_samples: Count
    chain: tuple[ChainStep, ...] = ()
    engines: tuple[EngineResult, ...] = ()
    gates: tuple[GateResult, ...] = ()
    findings: tuple[Finding, ...] = ()
    distillation: Distillation | None = None
    curves: tuple[Curve, ...] = ()
    search: Search | None = None
    layers: tuple[FamilyLayers, ...] = ()
    repairs: tuple[RepairResult, ...] = ()
    stages: tuple[StageResult, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, JsonValue] = Field(default_factory=dict)
    created_utc: str
    command: str | None = None
    """What to type to get this result again."""
    seed: int | None = None
