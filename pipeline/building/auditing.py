"""What is said of a built engine's realized layers, beside its FP16 opponent, and `[build.audit]`, which gates it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from engines.audit import Audit, compare_to_fp16, summarize
from engines.audit_patterns import occurrences
from engines.base import QUANTIZED_PRECISIONS, BuiltEngine, Target

Share = Annotated[float, Field(ge=0, le=1)]


class AuditGates(BaseModel):
    """`[build.audit]`: what INT8 and FP8 engines must really be; the build fails on anything else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_float: tuple[str, ...] | None = None
    """ONNX names, or patterns such as `head*`, of the only convolutions and products that may run in float."""
    min_quantized_share: Share | None = None
    """The least share of the multiply-adds in INT8 or FP8."""
    max_bytes_ratio_to_fp16: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The most activation bytes, as a multiple of the FP16 engine's of the same network; a CPU has none."""


@dataclass(frozen=True)
class Opponent:
    """The FP16 engine of the same network, which a quantized one has to beat; or why there is none."""

    audit: Audit | None = None
    reason: str = ""


def audit_record(
    built: BuiltEngine, precision: str, target: Target, opponent: Opponent | None = None
) -> dict[str, Any]:
    """What is recorded of one engine: the summary, patterns where it is quantized, its opponent, every layer."""
    quantized = precision in QUANTIZED_PRECISIONS
    found = occurrences(built.layers, dla=target.builder.dla_core is not None) if quantized else ()
    audit = summarize(built.layers)
    return {
        "summary": audit.to_json(),
        "patterns": [each.to_json() for each in found],
        "opponent": _opponent_record(audit, opponent) if quantized and opponent is not None else None,
        "layers": [asdict(layer) for layer in built.layers],
    }


def _opponent_record(audit: Audit, opponent: Opponent) -> dict[str, Any]:
    if opponent.audit is None:
        return {"precision": "fp16", "summary": None, "reason": opponent.reason, "remarks": []}
    remarks = compare_to_fp16(audit, opponent.audit)
    return {"precision": "fp16", "summary": opponent.audit.to_json(), "reason": "", "remarks": remarks}


def audit_of(record: Mapping[str, Any]) -> Audit:
    """The summary of a record, read back."""
    return Audit.from_json(record["summary"])


def opponent_of(record: Mapping[str, Any]) -> Opponent | None:
    """The opponent of a record, read back."""
    found = record["opponent"]
    if found is None:
        return None
    return Opponent(None if found["summary"] is None else Audit.from_json(found["summary"]), found["reason"])


def audit_failures(gates: AuditGates, audit: Audit, opponent: Opponent | None) -> Iterator[str]:
    """A sentence for each gate that a quantized engine does not pass, naming its layers."""
    if gates.allowed_float is not None:
        others = _not_allowed(audit.float_products, gates.allowed_float)
        if others:
            yield f"{', '.join(others)} run in float, and allowed_float does not name them"
    if gates.min_quantized_share is not None and audit.quantized_share < gates.min_quantized_share:
        yield (
            f"{audit.quantized_share:.1%} of its multiply-adds are quantized, min_quantized_share asks for "
            f"{gates.min_quantized_share:.1%}; in float: {', '.join(audit.float_products)}"
        )
    if gates.max_bytes_ratio_to_fp16 is not None and opponent is not None:
        yield from _too_many_bytes(gates.max_bytes_ratio_to_fp16, audit, opponent)


def _not_allowed(names: Sequence[str], allowed: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in allowed)]


def _too_many_bytes(limit: float, audit: Audit, opponent: Opponent) -> Iterator[str]:
    if opponent.audit is None:
        yield f"max_bytes_ratio_to_fp16 cannot be judged: {opponent.reason}"
        return
    ratio = audit.activation_bytes / max(1, opponent.audit.activation_bytes)
    if ratio > limit:
        yield (
            f"it moves {ratio:.2f} times the activation bytes of FP16 ({audit.activation_bytes / 1e6:.3g} MB against "
            f"{opponent.audit.activation_bytes / 1e6:.3g} MB a sample), max_bytes_ratio_to_fp16 allows {limit:g}"
        )
