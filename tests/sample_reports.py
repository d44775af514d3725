"""Reports to render: a full one, a bare one, a sparse one, a hostile one; and reading what was rendered."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from pydantic import JsonValue
from rich.console import Console

from pipeline.reporting.audit_result import AuditSummary
from pipeline.reporting.model import Estimate
from pipeline.reporting.result import (
    ChainStep,
    Curve,
    Distillation,
    EngineResult,
    Finding,
    GateResult,
    Latency,
    LossTerm,
    Report,
    Search,
    StageResult,
    Trial,
)
from pipeline.reporting.terminal import summary_from_report
from pipeline.reporting.verdict import verdict_from_gates

HOSTILE = "<script>alert(\"x\")</script> | `a` [b](c) [red]d[/red] & 'e'"
VOID = {"meta", "br", "hr", "img", "input", "link"}


def accuracy(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=360)


def latency(batch_size: int, p50_ms: float, fp32_ms: float | None = None, verdict: str | None = "faster") -> Latency:
    """A skewed distribution with a tail, as a busy machine gives it."""
    quantiles = tuple(p50_ms * (0.97 + 0.06 * (i / 40) + 0.25 * (i / 40) ** 12) for i in range(41))
    ratio = None
    if fp32_ms is not None:
        value = p50_ms / fp32_ms
        ratio = Estimate(value=value, low=value * 0.97, high=value * 1.04, n=700)
    return Latency.model_validate(
        {
            "batch_size": batch_size,
            "threads": 1,
            "samples": 700 if batch_size < 32 else 240,
            "p50_ms": p50_ms,
            "p50_low_ms": p50_ms * 0.99,
            "p50_high_ms": p50_ms * 1.01,
            "p90_ms": quantiles[36],
            "p99_ms": quantiles[39] if batch_size < 32 else None,
            "cv": 0.043,
            "quantiles_ms": quantiles,
            "ratio_to_fp32": ratio,
            "versus_fp32": verdict if ratio else None,
        }
    )


def cpu_engines() -> tuple[EngineResult, EngineResult]:
    fp32 = EngineResult(
        target="cpu",
        runtime="onnxruntime",
        precision="fp32",
        state="measured",
        file="cpu/fp32.onnx",
        bytes=1_243_392,
        sha256="3f" * 32,
        audit=AuditSummary(kernels=21, products=13, int8_products=0, activation_bytes=262_144),
        accuracy=accuracy(0.9806, 0.9601, 0.9906),
        latency=(latency(1, 0.312), latency(8, 1.74), latency(32, 6.61)),
        peak_memory_bytes=96_400_000,
    )
    int8 = EngineResult(
        target="cpu",
        runtime="onnxruntime",
        precision="int8",
        state="measured",
        file="cpu/int8.onnx",
        bytes=341_870,
        sha256="a9" * 32,
        parity="99.72% of 360 decisions the same, largest difference 0.031 (41 dB) on 360 samples",
        audit=AuditSummary(
            kernels=24, products=13, int8_products=12, float_products=("node_linear",), activation_bytes=98_304
        ),
        accuracy=accuracy(0.9778, 0.9565, 0.9888),
        accuracy_ratio_to_fp32=accuracy(0.9972, 0.9915, 1.0000),
        latency=(latency(1, 0.203, 0.312), latency(8, 0.818, 1.74), latency(32, 2.84, 6.61)),
        peak_memory_bytes=88_100_000,
    )
    return fp32, int8


def rtx_engine(precision: str, size: int, audit: AuditSummary) -> EngineResult:
    return EngineResult(
        target="rtx-portable",
        runtime="tensorrt-rtx",
        precision=precision,
        state="built",
        reason="no NVIDIA driver here",
        file=f"rtx-portable/{precision}.plan",
        bytes=size,
        sha256="5c" * 32,
        audit=audit,
    )


def rtx_engines() -> tuple[EngineResult, ...]:
    remark = "scales per channel: 5 convolutions emit float and a kernel of their own quantizes again"
    return (
        rtx_engine("fp32", 1_402_112, AuditSummary(kernels=18, products=13, int8_products=0, activation_bytes=241_664)),
        rtx_engine("fp16", 733_184, AuditSummary(kernels=18, products=13, int8_products=0, activation_bytes=120_832)),
        rtx_engine(
            "int8",
            489_728,
            AuditSummary(
                kernels=31,
                products=13,
                int8_products=12,
                float_products=("node_linear",),
                activation_bytes=180_224,
                remarks=(remark,),
            ),
        ),
        EngineResult(
            target="jetson",
            runtime="tensorrt",
            precision="int8",
            optional=True,
            state="not_built",
            reason="tensorrt cannot be imported; on a Jetson it comes with JetPack",
        ),
    )


def chain() -> tuple[ChainStep, ...]:
    student = accuracy(0.9806, 0.9601, 0.9906)
    return (
        ChainStep(
            step="teacher",
            label="Teacher",
            parameters=2_762_122,
            bytes=11_071_000,
            accuracy=accuracy(0.9889, 0.9717, 0.9957),
        ),
        ChainStep(
            step="student", label="Student", parameters=308_554, bytes=1_246_000, accuracy=student, note="distilled"
        ),
        ChainStep(
            step="baseline",
            label="Baseline",
            parameters=308_554,
            bytes=1_246_000,
            accuracy=accuracy(0.9750, 0.9532, 0.9868),
            note="same student, labels alone",
        ),
        ChainStep(step="onnx", label="ONNX", parameters=308_554, bytes=1_241_000, accuracy=student, note="opset 18"),
        ChainStep(
            step="engine",
            label="INT8 on cpu",
            precision="int8",
            bytes=341_870,
            accuracy=accuracy(0.9778, 0.9565, 0.9888),
            note="entropy calibration",
        ),
    )


def gates() -> tuple[GateResult, ...]:
    return (
        GateResult(name="accuracy_ratio_to_fp32", limit=0.99, value=0.9972, state="passed", subject="cpu int8"),
        GateResult(
            name="p50_ms", limit=1.0, sense="at most", value=0.818, state="passed", subject="cpu int8", detail="batch 8"
        ),
    )


def taught() -> Distillation:
    pairs: list[JsonValue] = [
        {"student": "stages.1", "teacher": "stages.1"},
        {"student": "stages.2", "teacher": "stages.2"},
    ]
    return Distillation(
        terms=(
            LossTerm(
                name="kd",
                formula="alpha * CE + (1 - alpha) * T^2 * KL(softmax(teacher / T), softmax(student / T))",
                paper="G. Hinton et al., Distilling the Knowledge in a Neural Network, 2015",
                settings={"temperature": 4.0, "alpha": 0.3},
            ),
            LossTerm(
                name="hint",
                formula="mean (adapter(student) - teacher)^2",
                paper="A. Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015",
                weight=0.5,
                schedule="from 0 to full over 2 epochs",
                settings={"pairs": pairs},
            ),
        ),
        epochs=12,
        best_epoch=11,
        compression_ratio=8.95,
        teacher_outputs="cached: 4 views, 12.3 MB, computed in one pass",
        optimizer="AdamW, learning rate 0.004, weight decay 0.0005, cosine with warm-up",
        extras=("EMA 0.999", "gradient clipping 1.0"),
    )


def curve(phase: str, count: int, best: float, start: float = 2.3) -> Curve:
    """Falling loss and rising validation, both a little unsteady, with the best value at the last epoch but one."""
    epochs = tuple(float(epoch) for epoch in range(1, count + 1))
    best_epoch = epochs[max(0, count - 2)]
    wave = [0.004 * math.sin(5 * epoch) for epoch in epochs]
    return Curve(
        phase=phase,
        epochs=epochs,
        loss=tuple(
            start * (0.02 + 0.98 * math.exp(-6 * (epoch - 1) / count)) * (1 + 9 * w)
            for epoch, w in zip(epochs, wave, strict=True)
        ),
        validation=tuple(
            best if epoch == best_epoch else best - 0.006 - 0.7 * math.exp(-8 * epoch / count) - abs(w)
            for epoch, w in zip(epochs, wave, strict=True)
        ),
        best_epoch=best_epoch,
    )


def trial(number: int, state: str, validation: float | None, chosen: bool = False) -> Trial:
    settings = {"kd.temperature": 2.0 + number, "kd.alpha": 0.31, "hint.weight": 0.05 * number, "learning_rate": 0.0041}
    return Trial.model_validate(
        {
            "number": number,
            "state": state,
            "validation": validation,
            "epochs": 12 if state != "pruned" else 4,
            "chosen": chosen,
            "settings": settings,
        }
    )


def searched() -> Search:
    return Search(
        wanted=0.9894,
        wanted_as="0.5 points below the teacher's 99.44 %",
        met=True,
        best=0.9944,
        trials=(
            trial(0, "complete", 0.9778),
            trial(1, "complete", 0.9833),
            trial(2, "pruned", 0.61),
            trial(3, "failed", None),
            trial(4, "complete", 0.9889),
            trial(5, "pruned", 0.9667),
            trial(6, "met", 0.9944, chosen=True),
        ),
        budget="20 trials, 30 minutes",
        stopped="trial 6 met the target",
    )


def search_of(count: int) -> Search:
    """So many trials, none of which meets what was asked."""
    trials = tuple(trial(number, "complete", 0.9 + 0.0001 * number) for number in range(count))
    best = max((found.validation or 0.0 for found in trials), default=None)
    return Search(wanted=0.99, met=False, best=best, trials=trials, stopped=f"{count} trials are spent")


def hostile_distillation() -> Distillation:
    pair: dict[str, JsonValue] = {"student": HOSTILE, "teacher": HOSTILE}
    term = LossTerm(
        name=HOSTILE,
        formula=HOSTILE,
        paper=HOSTILE,
        schedule=HOSTILE,
        settings={HOSTILE: HOSTILE, "pairs": [pair], "nested": {HOSTILE: [HOSTILE]}},
    )
    return Distillation(terms=(term,), teacher_outputs=HOSTILE, optimizer=HOSTILE, extras=(HOSTILE,))


def hostile_search() -> Search:
    hostile = Trial(number=0, state="met", settings={HOSTILE: HOSTILE}, validation=0.5, chosen=True)
    return Search(wanted=0.4, wanted_as=HOSTILE, met=True, best=0.5, trials=(hostile,), budget=HOSTILE, stopped=HOSTILE)


def sample_report(**changes: object) -> Report:
    """What `edgestill run digits` finds on a machine with no GPU."""
    verdict, reasons = verdict_from_gates(gates())
    names = ("data", "teacher", "distill", "export", "calibrate", "build", "measure")
    times = (0.41, 21.6, 17.9, 3.62, 1.28, 4.05, 6.73)
    report = Report(
        name="digits",
        task="classification",
        verdict=verdict,
        reasons=reasons,
        test_samples=360,
        chain=chain(),
        engines=(*cpu_engines(), *rtx_engines()),
        gates=gates(),
        findings=(
            Finding(
                severity="note", message="1,797 images in 10 classes; the rarest class has 174, the commonest 183."
            ),
            Finding(severity="warning", message="2 images of the training split differ in one pixel only."),
        ),
        distillation=taught(),
        curves=(curve("teacher", 10, 0.9944), curve("student", 12, 0.9889, 6.1), curve("baseline", 12, 0.9778)),
        search=searched(),
        stages=tuple(
            StageResult(name=name, key=f"{i}7c0de" * 8, seconds=seconds, peak_memory_bytes=(310 + 40 * i) * 1_000_000)
            for i, (name, seconds) in enumerate(zip(names, times, strict=True))
        ),
        versions={
            "edgestill": "0.1.0",
            "torch": "2.13.0",
            "onnx": "1.23.2",
            "onnxruntime": "1.32.0",
            "tensorrt_rtx": "1.7.1.116",
        },
        machine={
            "cpu": {"model": "Example CPU, 2 cores", "flags": ["avx512f", "avx512_vnni"]},
            "gpu": None,
            "memory_bytes": 8_000_000_000,
        },
        created_utc="2026-10-04T12:00:00Z",
        command="edgestill run digits",
        seed=0,
    )
    return Report.model_validate({**dict(report), **changes})


def bare_report() -> Report:
    """As little as a report can hold."""
    verdict, reasons = verdict_from_gates(())
    return Report(
        name="bare",
        task="classification",
        verdict=verdict,
        reasons=reasons,
        test_samples=0,
        created_utc="2026-01-01T00:00:00Z",
    )


def sparse_report() -> Report:
    """Every list filled, every optional field left out."""
    timed = Latency(batch_size=1, samples=11, p50_ms=0, p50_low_ms=0, p50_high_ms=0, cv=0)
    return bare_report().model_copy(
        update={
            "chain": (ChainStep(step="teacher", label="Teacher"),),
            "engines": (
                EngineResult(target="a", runtime="r", precision="fp32", state="measured", latency=(timed,)),
                EngineResult(
                    target="b",
                    runtime="r",
                    precision="int8",
                    state="measured",
                    accuracy=accuracy(1, 1, 1),
                    latency=(timed,),
                ),
                EngineResult(target="c", runtime="r", precision="fp8", state="built", reason="why", bytes=0),
                EngineResult(target="d", runtime="r", precision="int8", state="measured"),
            ),
            "gates": (GateResult(name="p50_ms", limit=1, state="failed", subject="c fp8"),),
            "stages": (StageResult(name="data", key="", seconds=0),),
            "distillation": Distillation(terms=(LossTerm(name="kd", formula="KL"),)),
            "curves": (Curve(phase="student", epochs=(1,), loss=(0,), validation=(0,), best_epoch=1),),
            "search": Search(wanted=0.9, met=False, trials=(Trial(number=0, state="failed"),)),
        }
    )


def hostile_report() -> Report:
    """Markup wherever a user's words can stand."""
    engine = cpu_engines()[1].model_copy(
        update={"target": HOSTILE, "runtime": HOSTILE, "precision": HOSTILE, "reason": HOSTILE, "file": HOSTILE}
    )
    audit = AuditSummary(kernels=1, products=1, int8_products=1, float_products=(HOSTILE,), remarks=(HOSTILE,))
    return sample_report(
        name=HOSTILE,
        task=HOSTILE,
        metric=HOSTILE,
        reasons=(HOSTILE,),
        command=HOSTILE,
        created_utc=HOSTILE,
        chain=tuple(step.model_copy(update={"label": HOSTILE, "note": HOSTILE}) for step in chain()),
        engines=(engine, engine.model_copy(update={"audit": audit, "state": "built"})),
        gates=(GateResult(name=HOSTILE, limit=1, state="failed", subject=HOSTILE, detail=HOSTILE),),
        findings=(Finding(severity="error", message=HOSTILE),),
        stages=(StageResult(name=HOSTILE, key=HOSTILE, seconds=1),),
        versions={HOSTILE: HOSTILE},
        machine={HOSTILE: [HOSTILE], "nested": {"list": [{"a": HOSTILE}, None, True]}},
        sample=HOSTILE,
        interval=HOSTILE,
        distillation=hostile_distillation(),
        curves=(curve(HOSTILE, 3, 0.9),),
        search=hostile_search(),
    )


REPORTS = {"sample": sample_report, "bare": bare_report, "sparse": sparse_report, "hostile": hostile_report}
every_report = pytest.mark.parametrize("report", [make() for make in REPORTS.values()], ids=list(REPORTS))


class Tags(HTMLParser):
    """Tags, attributes and text of a page; raises where a tag is closed that was not the last one opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def words(page: str) -> str:
    return " ".join(" ".join(Tags(page).text).split())


def on_terminal(report: Report, html: Path | None = None, width: int = 80) -> str:
    out = StringIO()
    Console(file=out, width=width).print(summary_from_report(report, html))
    return out.getvalue()
