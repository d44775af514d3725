"""What a report says of each layer in INT8, and of the placements that were tried."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.reporting.model import Count, Estimate, Result

Points = Annotated[float, Field(description="Percentage points that the metric loses against FP32")]


class LayerResult(Result):
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


class PlacementResult(Result):
    """One placement that was tried for a budget."""

    int8_share: Annotated[float, Field(ge=0, le=1)]
    """Of the graph's multiply-adds."""
    spared: Count
    """Layers."""
    sqnr_db: float
    drop_points: Estimate | None = None
    within: bool
    chosen: bool = False


class FloatTimeResult(Result):
    """How much of the time of all convolutions and products those take that stay in float."""

    basis: Literal["estimated", "measured"]
    """`estimated`: of one sample on one thread, from costs per operator; no Q, DQ or operator between layers in it."""
    share: Annotated[float, Field(ge=0, le=1)]
    float_ms: Annotated[float, Field(ge=0)]
    layers_ms: Annotated[float, Field(ge=0)]


class MetricChangeResult(Result):
    """Of the task's metric, by a repair."""

    metric: str
    judged_on: str
    of_samples: Count
    """How many there are; the interval says how many were taken."""
    before: float
    after: float
    gain_points: Estimate
    """Paired over the samples."""


class RepairResult(Result):
    """What one repair brought to one family's graph."""

    repair: str
    family: str
    samples: Count
    """Of the calibration, that SQNR and agreement are of."""
    sqnr_db_before: float
    sqnr_db_after: float
    metric: MetricChangeResult | None = None
    """None where there were no labels."""
    decided_by: Literal["output error", "metric"]
    kept: bool


class FamilyLayers(Result):
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
    int8_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of the multiply-adds, as the layers are placed."""
    time_in_float: FloatTimeResult | None = None
    """None where no time is known."""
