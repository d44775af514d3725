"""What a run found: the one model that every form of the report is made from."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Verdict = Literal["ship", "do_not_ship", "inconclusive"]

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Quantiles = Annotated[tuple[NonNegative, ...], Field(description="Evenly spaced from the minimum to the maximum")]


class _Result(BaseModel):
    """Frozen, and strict about what it holds: an unknown key, NaN or infinity is a bug of the writer."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class Estimate(_Result):
    """A number found from `n` samples, with its confidence interval."""

    value: float
    low: float
    high: float
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    n: PositiveCount

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] is reversed")
        return self


class ChainStep(_Result):
    """One form of the network between teacher and engine; `accuracy` is the report's metric."""

    step: Literal["teacher", "baseline", "student", "onnx", "engine"]
    label: str
    precision: str = "fp32"
    parameters: Count | None = None
    bytes: Count | None = None
    accuracy: Estimate | None = None
    note: str = ""


class GpuRun(_Result):
    """What a call on a GPU held, in trtexec's words: the phases are medians by the GPU's clock."""

    transfers: bool
    cuda_graph: bool
    spin_wait: bool
    h2d_ms: NonNegative | None = None
    gpu_compute_ms: NonNegative | None = None
    d2h_ms: NonNegative | None = None


class Latency(_Result):
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


class AuditPattern(_Result):
    """Something in the realized layers of a quantized engine that costs time, and what would mend it."""

    pattern: str
    kernels: PositiveCount
    nodes: tuple[str, ...]
    activation_bytes: Count
    meaning: str
    remedy: str


class AuditSummary(_Result):
    """Which products (convolutions and matrix products) of a built engine take INT8 operands."""

    kernels: Count
    products: Count
    int8_products: Count
    fp8_products: Count = 0
    float_products: tuple[str, ...] = ()
    activation_bytes: Count | None = None
    quantized_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of the multiply-adds; None where the engine was not asked for INT8 or FP8."""
    fp16_kernels: Count | None = None
    """Of the FP16 engine of the same network; None where there is none."""
    fp16_activation_bytes: Count | None = None
    patterns: tuple[AuditPattern, ...] = ()
    remarks: tuple[str, ...] = ()


class EngineResult(_Result):
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


class GateResult(_Result):
    """One limit held against one engine or student; a unit stands in the name (`p50_ms`)."""

    name: str
    limit: float
    sense: Literal["at least", "at most"] = "at least"
    value: float | None = None
    state: Literal["passed", "failed", "inconclusive"]
    subject: str
    """What it was held against, such as `cpu int8`."""
    detail: str = ""


class StageResult(_Result):
    name: str
    key: str
    seconds: NonNegative
    peak_memory_bytes: Count | None = None


class Finding(_Result):
    """Something about the data, a graph or the measurement that a reader must know."""

    severity: Literal["note", "warning", "error"]
    message: str


class LossTerm(_Result):
    """One term of the weighted sum that taught the student."""

    name: str
    formula: str
    paper: str = ""
    weight: float = 1.0
    schedule: str = ""
    """How the weight changes over the epochs, in words; empty where it does not."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """As the recipe has them, such as `temperature` and `alpha`."""


class Distillation(_Result):
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


class Curve(_Result):
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


class Trial(_Result):
    """One student that the search trained; `validation` is the best that it reached, None where it has no value."""

    number: Count
    state: Literal["met", "complete", "pruned", "failed"]
    settings: dict[str, float | str] = Field(default_factory=dict)
    validation: float | None = None
    epochs: Count = 0
    chosen: bool = False
    """Whether this is the student that the run goes on with."""


class Search(_Result):
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


Points = Annotated[float, Field(description="Percentage points that the metric loses against FP32")]


class LayerResult(_Result):
    """One convolution or product in INT8; what is None was not judged."""

    node: str
    module: str = ""
    """The source module, where it is known."""
    share: Annotated[float, Field(ge=0, le=1)]
    """Of the graph's multiply-adds."""
    low: float
    high: float
    """The range of its input."""
    low_interval: tuple[float, float] | None = None
    high_interval: tuple[float, float] | None = None
    """Where the ends would lie for other images, as many, with 90 % confidence; None where they were too few."""
    saturation: Annotated[float, Field(ge=0, le=1)]
    """Share of its input's values outside the range."""
    own_sqnr_db: float
    """Of its own result."""
    alone_sqnr_db: float | None = None
    """Of the output, with this layer alone in INT8."""
    alone_drop_points: Points | None = None
    without_sqnr_db: float | None = None
    """Of the output, with all but it in INT8."""
    without_drop_points: Points | None = None
    spared: bool = False
    """Whether it stays in float so that a budget holds."""
    reason: str = ""


class PlacementResult(_Result):
    """One placement that was tried for a budget."""

    int8_share: Annotated[float, Field(ge=0, le=1)]
    """Of the graph's multiply-adds."""
    spared: Count
    """Layers."""
    sqnr_db: float
    drop_points: Estimate | None = None
    within: bool
    chosen: bool = False


class FamilyLayers(_Result):
    """What each layer costs in one placement family."""

    family: str
    judged_on: str
    """Such as `validation split`."""
    samples: Count
    layers: tuple[LayerResult, ...] = ()
    budget: str = ""
    """In words; empty where none was set."""
    met: bool | None = None
    outcome: str = ""
    placements: tuple[PlacementResult, ...] = ()


class Report(_Result):
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
    stages: tuple[StageResult, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, JsonValue] = Field(default_factory=dict)
    created_utc: str
    command: str | None = None
    """What to type to get this result again."""
    seed: int | None = None
