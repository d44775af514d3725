"""What a report says of the layers of a built engine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.reporting.model import Count, PositiveCount, Result


class AuditPattern(Result):
    """Something in the realized layers of a quantized engine that costs time, and what would mend it."""

    pattern: str
    kernels: PositiveCount
    nodes: tuple[str, ...]
    activation_bytes: Count
    meaning: str
    remedy: str


class AuditSummary(Result):
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
