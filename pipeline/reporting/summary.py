"""The sentences and key figures that stand at the top of every form of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from calibration.counting import counted
from engines.base import QUANTIZED_PRECISIONS
from pipeline.reporting import formats
from pipeline.reporting.audit_result import AuditSummary
from pipeline.reporting.result import EngineResult, Report

HEADLINES = {"ship": "Ship", "do_not_ship": "Do not ship", "inconclusive": "Inconclusive"}
GLYPHS = {
    "ship": "✓",
    "do_not_ship": "✗",
    "inconclusive": "?",
    "passed": "✓",
    "failed": "✗",
    "met": "◆",
    "complete": "●",
    "pruned": "○",
    "faster": "▲",
    "slower": "▼",
    "measured": "●",
    "built": "○",
    "not_built": "–",
}
_UNMEASURED: dict[Literal["built", "not_built"], str] = {"built": "built but not measured", "not_built": "not built"}
STATES = {"measured": "measured", "built": "built, not measured", "not_built": "not built"}


@dataclass(frozen=True)
class KeyFigure:
    value: str
    label: str
    detail: str = ""


def coverage(report: Report) -> str:
    """What the verdict speaks of, and what it cannot: an engine that nobody ran is neither good nor bad."""
    if not report.engines:
        return ""
    counts = Counter(engine.state for engine in report.engines)
    measured = counts["measured"]
    told = f"This speaks of the {_counted(measured)} measured here" if measured else "No engine was measured here"
    missed = [f"{counts[state]} {_be(counts[state])} {words}" for state, words in _UNMEASURED.items() if counts[state]]
    return f"{told}; {', '.join(missed)}." if missed else f"{told}, which is all of them."


def tested(report: Report) -> str:
    """Such as `359 test images`."""
    return counted(report.test_samples, f"test {report.sample}")


def unmeasured(report: Report) -> tuple[str, ...]:
    """One sentence for each reason: `rtx-portable FP32, FP16 (built, not measured): no NVIDIA driver here`."""
    by_reason: dict[tuple[str, str, str], list[str]] = {}
    for engine in report.engines:
        if engine.state != "measured":
            key = (engine.target, STATES[engine.state], engine.reason)
            by_reason.setdefault(key, []).append(formats.precision(engine.precision))
    return tuple(
        f"{target} {', '.join(names)} ({state}): {reason}" for (target, state, reason), names in by_reason.items()
    )


def _counted(engines: int) -> str:
    return "one engine" if engines == 1 else f"{engines} engines"


def _be(count: int) -> str:
    return "was" if count == 1 else "were"


def key_figures(report: Report) -> tuple[KeyFigure, ...]:
    """Compression, speed, accuracy kept and size: of the first target whose quantized engine was measured."""
    engine, fp32 = _quantized_and_fp32(report)
    figures = [_compression(report)]
    if engine is not None:
        figures += [_speed(engine), _accuracy_kept(engine, report.metric), _size(engine, fp32)]
    return tuple(figure for figure in figures if figure)


def _quantized_and_fp32(report: Report) -> tuple[EngineResult | None, EngineResult | None]:
    """The engine that the reader came for, and what it is held against."""
    by_interest = sorted(
        report.engines,
        key=lambda engine: (
            engine.state != "measured",
            engine.precision not in QUANTIZED_PRECISIONS,
            engine.state != "built",
        ),
    )
    chosen = by_interest[0] if by_interest else None
    same_target = (e for e in report.engines if chosen and e.target == chosen.target and e.precision == "fp32")
    return chosen, next(same_target, None)


def _compression(report: Report) -> KeyFigure | None:
    parameters = {step.step: step.parameters for step in report.chain if step.parameters}
    teacher, student = parameters.get("teacher"), parameters.get("student")
    if not teacher or not student:
        return None
    detail = f"{formats.count(teacher)} in the teacher, {formats.count(student)} in the student"
    return KeyFigure(f"{formats.significant(teacher / student)}×", "fewer parameters", detail)


def _speed(engine: EngineResult) -> KeyFigure:
    name = formats.engine(engine)
    judged = [latency for latency in engine.latency if latency.ratio_to_fp32]
    if not judged:
        return _time(engine)
    batches = f"{name}, median at batch {', '.join(str(latency.batch_size) for latency in judged)}"
    outcomes = {latency.versus_fp32 for latency in judged}
    ratios = [latency.ratio_to_fp32.value for latency in judged if latency.ratio_to_fp32]
    if outcomes == {"faster"}:
        return KeyFigure(_times([1 / ratio for ratio in ratios]), "faster than FP32", batches)
    if outcomes == {"slower"}:
        return KeyFigure(_times(ratios), "slower than FP32", batches)
    each = ", ".join(f"batch {latency.batch_size} {latency.versus_fp32 or 'not judged'}" for latency in judged)
    value = "inconclusive" if outcomes <= {"inconclusive", None} else "mixed"
    return KeyFigure(value, "speed against FP32", f"{name}: {each}")


def _time(engine: EngineResult) -> KeyFigure:
    if not engine.latency:
        return KeyFigure(
            "not measured", "latency", f"{formats.engine(engine)}: {engine.reason or 'no timing was asked'}"
        )
    first = engine.latency[0]
    detail = f"{formats.engine(engine)}, batch {first.batch_size}"
    return KeyFigure(formats.milliseconds(first.p50_ms), "median time per call", detail)


def _times(factors: list[float]) -> str:
    low, high = f"{min(factors):.1f}", f"{max(factors):.1f}"
    return f"{low}×" if low == high else f"{low}–{high}×"


def _accuracy_kept(engine: EngineResult, metric: str) -> KeyFigure:
    name = formats.engine(engine)
    if ratio := engine.accuracy_ratio_to_fp32:
        detail = f"{name}, {round(ratio.confidence * 100)} % interval {formats.percent_interval(ratio)}"
        return KeyFigure(formats.percent(ratio.value), f"of FP32 {metric} kept", detail)
    if engine.accuracy:
        return KeyFigure(
            formats.percent(engine.accuracy.value), metric, f"{name}, {formats.percent_interval(engine.accuracy)}"
        )
    return KeyFigure("not measured", metric, f"{name}: {engine.reason or 'it was not asked'}")


def _size(engine: EngineResult, fp32: EngineResult | None) -> KeyFigure | None:
    if engine.bytes is None:
        return None
    name = formats.engine(engine)
    if fp32 is None or not fp32.bytes or fp32 is engine:
        return KeyFigure(formats.bytes_(engine.bytes), "engine file", name)
    detail = f"{name}; FP32 takes {formats.bytes_(fp32.bytes)}"
    return KeyFigure(formats.bytes_(engine.bytes), "engine file", detail)


def audit_sentence(precision: str, audit: AuditSummary) -> str:
    """Such as `INT8 on 12 of 13 products`; an engine that asked for no INT8 owes none."""
    if precision not in QUANTIZED_PRECISIONS and audit.int8_products == 0:
        return f"{audit.products} products in float, as asked"
    if precision == "fp8":
        return f"FP8 on {audit.fp8_products} of {audit.products} products"
    return f"INT8 on {audit.int8_products} of {audit.products} products"


def first_names(names: tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


REPRODUCTION = (
    "Equal stage keys mean equal settings, inputs and tools; weights, graphs and accuracy then repeat.",
    "Latency belongs to this machine: compare it only with what was measured on it.",
)


def command(report: Report) -> str:
    """What to type to get the result again."""
    return report.command or "edgestill run <recipe>.toml"
