"""Reporting: one result model, and the same content in HTML, Markdown, JSON and on a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from pipeline.reporting import formats, summary, tables
from pipeline.reporting.charts import STRIP_PX, quantile_strip
from pipeline.reporting.document import (
    SCHEMA,
    document_from_report,
    schema_errors,
    schema_from_model,
    write_json,
)
from pipeline.reporting.html import html_from_report, write_html
from pipeline.reporting.markdown import markdown_from_report, write_markdown
from pipeline.reporting.result import (
    AuditSummary,
    ChainStep,
    Distillation,
    EngineResult,
    Estimate,
    Finding,
    GateResult,
    Latency,
    Report,
    StageResult,
)
from pipeline.reporting.scale import Axis, axis_from_zero, linear_axis, logarithmic_axis
from pipeline.reporting.scatter import Wish, texts_apart
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
        test_images=360,
        chain=chain(),
        engines=(*cpu_engines(), *rtx_engines()),
        gates=gates(),
        findings=(
            Finding(
                severity="note", message="1,797 images in 10 classes; the rarest class has 174, the commonest 183."
            ),
            Finding(severity="warning", message="2 images of the training split differ in one pixel only."),
        ),
        distillation=Distillation(
            loss="alpha * CE + (1 - alpha) * T^2 * KL", temperature=4.0, alpha=0.3, epochs=12, compression_ratio=8.95
        ),
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
        test_images=0,
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
            "distillation": Distillation(loss="kd"),
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
        distillation=Distillation(loss=HOSTILE),
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


# The model


def test_a_report_cannot_be_changed_and_takes_no_unknown_key() -> None:
    report = bare_report()
    with pytest.raises(ValidationError, match="frozen"):
        report.name = "other"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Report.model_validate({**dict(report), "colour": "blue"})


def test_an_estimate_refuses_a_reversed_interval_and_nan() -> None:
    with pytest.raises(ValidationError, match=r"the interval \[0.9, 0.8\] is reversed"):
        accuracy(0.85, 0.9, 0.8)
    with pytest.raises(ValidationError, match="finite number"):
        accuracy(float("nan"), 0.8, 0.9)


@pytest.mark.parametrize("state", ["built", "not_built"])
def test_an_engine_that_was_not_measured_says_why(state: str) -> None:
    fields = {"target": "rtx", "runtime": "tensorrt-rtx", "precision": "int8", "state": state}
    with pytest.raises(ValidationError, match=f"rtx int8 is {state}, so it needs a reason"):
        EngineResult.model_validate(fields)


def test_the_model_loads_nothing_heavy() -> None:
    heavy = ("jinja2", "jsonschema", "torch", "rich", "numpy")
    code = f"import sys, pipeline.reporting.result; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# The verdict


gate_results = st.builds(
    GateResult,
    name=st.sampled_from(["accuracy_ratio_to_fp32", "p50_ms", "file_bytes"]),
    limit=st.floats(-1e9, 1e9),
    sense=st.sampled_from(["at least", "at most"]),
    value=st.none() | st.floats(-1e9, 1e9),
    state=st.sampled_from(["passed", "failed", "inconclusive"]),
    subject=st.text(max_size=9),
)


@given(st.lists(gate_results, max_size=6))
def test_the_worst_gate_decides_and_every_gate_that_did_not_pass_is_a_reason(gates: list[GateResult]) -> None:
    verdict, reasons = verdict_from_gates(gates)
    states = {gate.state for gate in gates}
    expected = "do_not_ship" if "failed" in states else "ship" if states == {"passed"} else "inconclusive"
    assert verdict == expected
    not_passed = sum(gate.state != "passed" for gate in gates)
    assert len(reasons) == (not_passed or 1)
    assert verdict_from_gates(list(reversed(gates)))[0] == verdict


def test_without_a_gate_nothing_is_shipped_by_accident() -> None:
    verdict, reasons = verdict_from_gates(())
    assert verdict == "inconclusive"
    assert reasons == ("No gate was set, so nothing says what is good enough: set limits under [gates].",)


def test_a_reason_shows_the_digit_that_decided() -> None:
    gate = GateResult(name="accuracy_ratio_to_fp32", limit=0.99, value=0.98999, state="failed", subject="cpu int8")
    assert verdict_from_gates([gate])[1] == ("accuracy_ratio_to_fp32 of cpu int8 is 0.98999, at least 0.99 was asked.",)


def test_an_undecided_gate_says_what_kept_it_from_a_decision() -> None:
    gate = GateResult(
        name="p50_ms",
        limit=2,
        sense="at most",
        state="inconclusive",
        subject="rtx int8",
        detail="no NVIDIA driver here",
    )
    reason = "p50_ms of rtx int8 could not be decided: at most 2 ms was asked (no NVIDIA driver here)."
    assert verdict_from_gates([gate]) == ("inconclusive", (reason,))


# Numbers


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.percent_estimate(accuracy(0.975, 0.953, 0.987)), "97.50 % [95.3, 98.7]"),
        (formats.milliseconds(0.04561), "0.0456 ms"),
        (formats.milliseconds(9.996), "10.0 ms"),
        (formats.milliseconds(1234.5), "1230 ms"),
        (formats.milliseconds(0), "0 ms"),
        (formats.bytes_(341_870), "342 kB"),
        (formats.bytes_(999_600), "1.00 MB"),
        (formats.bytes_(12), "12 B"),
        (formats.count(2_762_122), "2.76 M"),
        (formats.seconds(0.414), "0.41 s"),
        (formats.seconds(125.4), "2 min 05 s"),
        (formats.percent(None), "–"),
    ],
)
def test_numbers_are_written_as(written: str, expected: str) -> None:
    assert written == expected


@given(st.floats(1e-6, 1e9))
def test_three_digits_are_within_half_a_percent(value: float) -> None:
    assert float(formats.significant(value)) == pytest.approx(value, rel=0.0051)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_two_different_numbers_of_a_gate_look_different(value: float, limit: float) -> None:
    found, asked = formats.gate_pair("ratio", value, limit)
    assert (found != asked) or value == pytest.approx(limit, rel=1e-15, abs=1e-300)


# Axes


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_a_linear_axis_holds_its_values_between_floor_and_ceiling(values: list[float]) -> None:
    axis = linear_axis(values, floor=0, ceiling=1)
    assert 0 <= axis.low <= min(values) + 1e-9
    assert max(values) - 1e-9 <= axis.high <= 1
    assert axis.low < axis.high
    assert all(a < b for a, b in pairwise(axis.ticks))


@given(st.lists(st.floats(1e-4, 1e5), min_size=1, max_size=6))
def test_a_logarithmic_axis_has_a_tick_and_holds_its_values(values: list[float]) -> None:
    axis = logarithmic_axis(values)
    assert all(0 < axis.percent(value) < 100 for value in values)
    assert axis.ticks


def test_a_value_beyond_the_axis_stays_on_its_end() -> None:
    assert Axis(0, 10, ()).percent(12) == 100
    assert Axis(1, 10, (), logarithmic=True).percent(0) == 0


@given(
    st.lists(st.builds(Wish, st.floats(0, 100), st.floats(0, 250), st.text(max_size=20), st.booleans()), max_size=12)
)
def test_no_label_covers_another(wishes: list[Wish]) -> None:
    placed = list(zip(wishes, texts_apart(wishes, 290), strict=True))
    for index, (wish, baseline) in enumerate(placed):
        for other, its_baseline in placed[:index]:
            if wish.percent == other.percent:
                assert abs(baseline - its_baseline) >= 14


# JSON


def test_the_schema_that_ships_is_up_to_date() -> None:
    shipped = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert shipped == schema_from_model(), "run python -m pipeline.reporting.document and commit report.schema.json"


@every_report
def test_the_document_conforms_and_comes_back_as_the_same_report(report: Report, tmp_path: Path) -> None:
    write_json(report, tmp_path / "report.json")
    assert Report.model_validate_json((tmp_path / "report.json").read_bytes()) == report


def test_the_same_report_gives_the_same_bytes_whatever_order_it_was_filled_in(tmp_path: Path) -> None:
    machine = sample_report().machine
    write_json(sample_report(machine=machine), tmp_path / "a.json")
    write_json(sample_report(machine=dict(reversed(machine.items()))), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_text(encoding="utf-8").startswith('{\n  "schema_version": 1,\n  "name": "digits"')


def test_a_document_that_breaks_the_schema_is_refused_with_the_place() -> None:
    document = document_from_report(sample_report())
    document["engines"][0]["state"] = "perfect"
    document["colour"] = "blue"
    del document["gates"]
    errors = "\n".join(schema_errors(document))
    assert "$.engines[0].state: 'perfect' is not one of ['measured', 'built', 'not_built']" in errors
    assert "'colour' was unexpected" in errors
    assert "'gates' is a required property" in errors


def test_a_report_that_went_round_the_model_is_not_written(tmp_path: Path) -> None:
    forged = sample_report().model_copy(update={"test_images": -1})
    with pytest.raises(
        ValueError, match=r"report\.json was not written, it breaks report\.schema\.json: \$\.test_images"
    ):
        write_json(forged, tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()


# HTML


@every_report
def test_the_page_is_well_formed(report: Report) -> None:
    page = Tags(html_from_report(report))
    assert page.open == []
    assert [page.seen.count(tag) for tag in ("html", "head", "body", "main", "header", "footer", "h1")] == [1] * 7


@every_report
def test_the_page_asks_the_network_for_nothing(report: Report) -> None:
    page = html_from_report(report)
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page
    tags = Tags(page)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(tags.seen)
    assert not {"src", "href", "srcset", "style"} & {name for name, _ in tags.attributes}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in tags.attributes


def test_hostile_words_stay_words() -> None:
    page = html_from_report(hostile_report())
    assert "<script" not in page
    assert HOSTILE in words(page)
    assert not [name for name, _ in Tags(page).attributes if name.startswith("on")]


def test_every_engine_gate_stage_step_finding_and_version_appears_in_page_and_markdown() -> None:
    report = sample_report()
    expected = [formats.engine(engine) for engine in report.engines]
    expected += [gate.name for gate in report.gates] + [stage.name for stage in report.stages]
    expected += [step.label for step in report.chain] + [finding.message for finding in report.findings]
    expected += [
        *report.versions,
        "Example CPU, 2 cores",
        "edgestill run digits",
        "INT8 on 12 of 13 products",
        "node_linear",
    ]
    expected += [engine.sha256 for engine in report.engines if engine.sha256]
    markdown = markdown_from_report(report)
    page = words(html_from_report(report))
    assert [one for one in expected if one not in page] == []
    assert [one for one in expected if one not in markdown] == []


@pytest.mark.parametrize(
    ("verdict", "headline"), [("ship", "Ship"), ("do_not_ship", "Do not ship"), ("inconclusive", "Inconclusive")]
)
def test_the_verdict_comes_first(verdict: str, headline: str) -> None:
    report = sample_report(verdict=verdict, reasons=("Because.",))
    assert re.search(
        rf"<h1>.*</svg>\s*{headline}</h1>\s*<p class=\"reasons\">Because\.</p>", html_from_report(report), re.S
    )
    assert headline in markdown_from_report(report).splitlines()[0]
    assert headline in on_terminal(report).splitlines()[1]


def test_what_was_not_measured_is_shown_with_its_reason() -> None:
    report = sample_report()
    for text in (words(html_from_report(report)), markdown_from_report(report), on_terminal(report, width=200)):
        assert "built, not measured" in text
        assert "no NVIDIA driver here" in text
        assert "not built" in text
        assert "tensorrt cannot be imported; on a Jetson it comes with JetPack" in text
        assert "3 were built but not measured, 1 was not built" in text


def test_inconclusive_is_an_answer() -> None:
    gate = GateResult(name="p50_ms", limit=1, state="inconclusive", subject="cpu int8", detail="too noisy")
    fp32, int8 = cpu_engines()
    int8 = int8.model_copy(update={"latency": (latency(1, 0.31, 0.312, "inconclusive"),)})
    verdict, reasons = verdict_from_gates([gate])
    report = sample_report(verdict=verdict, reasons=reasons, gates=(gate,), engines=(fp32, int8))
    page = words(html_from_report(report))
    for text in (page, markdown_from_report(report), on_terminal(report)):
        assert "? Inconclusive" in text or text is page
        assert "could not be decided" in text
        assert "? inconclusive" in text
        assert "too noisy" in text
    assert "0.99 of FP32: inconclusive" in page


def test_a_percentile_with_too_few_calls_is_not_a_number() -> None:
    assert "too few calls" in words(html_from_report(sample_report()))
    assert "too few calls" in markdown_from_report(sample_report())


def test_a_stray_call_is_named_and_does_not_squeeze_the_rest() -> None:
    stray = latency(1, 0.3).model_copy(update={"quantiles_ms": (0.29, 0.3, 0.31, 90.0)})
    report = sample_report(engines=(cpu_engines()[0].model_copy(update={"latency": (stray,)}),))
    assert "up to 90.0 ms →" in words(html_from_report(report))


def test_what_names_a_stray_call_stands_below_all_that_is_drawn() -> None:
    quantiles = (0.29, 0.3, 0.31, 0.59, 90.0)
    drawn = quantile_strip(latency(1, 0.3).model_copy(update={"quantiles_ms": quantiles}), axis_from_zero(0.6), "int8")
    [baseline] = [float(y) for y in re.findall(r'<text [^>]*y="([\d.]+)"', drawn)]
    ends = [float(y) for y in re.findall(r'y2="([\d.]+)"', drawn)]
    assert len(ends) >= len(quantiles)
    assert max(ends) <= baseline - 10
    [height] = re.findall(r'height="(\d+)"', drawn)
    assert baseline < float(height)


def test_a_strip_without_a_stray_call_is_no_taller() -> None:
    quiet = latency(1, 0.3).model_copy(update={"quantiles_ms": (0.29, 0.3, 0.31)})
    assert f'height="{STRIP_PX}"' in quantile_strip(quiet, axis_from_zero(0.6), "int8")


def test_engines_of_equal_accuracy_and_speed_can_be_drawn() -> None:
    fp32, _ = cpu_engines()
    twins = tuple(fp32.model_copy(update={"target": f"twin-{i}"}) for i in range(4))
    page = words(html_from_report(sample_report(engines=twins)))
    assert all(f"twin-{i} FP32, batch 1" in page for i in range(4))


# Markdown


@every_report
def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head(report: Report) -> None:
    rows: list[int] = []
    for line in [*markdown_from_report(report).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(set(rows)) <= 1, line
            rows = []


def test_markdown_lets_no_markup_through() -> None:
    # A line that starts with a backtick is code, in which everything is literal.
    lines = markdown_from_report(hostile_report()).splitlines()
    markdown = "\n".join(line for line in lines if not line.startswith("`"))
    assert "<script" not in markdown
    assert "](c)" not in markdown.replace("]\\(c)", "")


@every_report
def test_spans_add_up_to_the_columns(report: Report) -> None:
    for make in (tables.engines_table, tables.latency_table, tables.gates_table, tables.audit_table):
        table = make(report)
        assert [sum(cell.span for cell in row) for row in table.rows] == [len(table.columns)] * len(table.rows)


# Terminal


@every_report
def test_the_terminal_summary_fits_80_columns(report: Report) -> None:
    assert max(len(line.rstrip()) for line in on_terminal(report).splitlines()) <= 80


def test_the_terminal_summary_says_where_the_report_is_and_takes_names_literally() -> None:
    assert "Report: work/07-report/report.html" in on_terminal(sample_report(), Path("work/07-report/report.html"))
    assert "[red]d[/red]" in on_terminal(hostile_report(), width=400)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = StringIO()
    Console(file=out, force_terminal=True, width=80).print(summary_from_report(sample_report()))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", out.getvalue())


# Key figures


def key_values(report: Report) -> list[str]:
    return [f"{key.value} {key.label}" for key in summary.key_figures(report)]


def test_key_figures_of_the_sample() -> None:
    assert key_values(sample_report()) == [
        "8.95× fewer parameters",
        "1.5–2.3× faster than FP32",
        "99.72 % of FP32 accuracy kept",
        "342 kB engine file",
    ]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (("slower", "slower"), "1.5× slower than FP32"),
        (("slower", "faster"), "mixed speed against FP32"),
        (("inconclusive", "inconclusive"), "inconclusive speed against FP32"),
    ],
)
def test_speed_is_claimed_only_where_every_batch_size_agrees(outcomes: tuple[str, str], expected: str) -> None:
    fp32, int8 = cpu_engines()
    int8 = int8.model_copy(update={"latency": (latency(1, 1.5, 1, outcomes[0]), latency(8, 3, 2, outcomes[1]))})
    assert key_values(sample_report(engines=(fp32, int8)))[1] == expected


def test_key_figures_say_not_measured_where_nothing_was() -> None:
    assert key_values(sample_report(engines=rtx_engines()))[1:3] == ["not measured latency", "not measured accuracy"]


# Files


def test_page_and_markdown_are_written_as_utf8(tmp_path: Path) -> None:
    write_html(sample_report(), tmp_path / "report.html")
    write_markdown(sample_report(), tmp_path / "report.md")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html_from_report(sample_report())
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown_from_report(sample_report())


def test_a_label_that_grows_away_from_the_edge_is_known_to_reach_the_next_one() -> None:
    first, second = texts_apart([Wish(12, 100, "FP32, batch 1"), Wish(38, 100, "8")], 290)
    assert first != second
    first, second = texts_apart([Wish(12, 100, "FP32, batch 1"), Wish(60, 100, "8")], 290)
    assert first == second


def test_a_machine_without_gpus_says_so_instead_of_leaving_the_cell_empty() -> None:
    report = sample_report().model_copy(update={"machine": {"gpus": [], "isa": ["avx2", "avx512_vnni"]}})
    cells = [[cell.text for cell in row] for row in tables.machine_table(report).rows]
    assert cells == [["gpus", "none"], ["isa", "avx2, avx512_vnni"]]
