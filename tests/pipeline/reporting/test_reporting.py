"""Reporting: one result model, and the same content in HTML, Markdown, JSON and on a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console
from sample_reports import (
    HOSTILE,
    Tags,
    accuracy,
    bare_report,
    cpu_engines,
    every_report,
    hostile_report,
    latency,
    on_terminal,
    rtx_engines,
    sample_report,
    words,
)

from pipeline.reporting import audit_tables, formats, summary, tables
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
from pipeline.reporting.result import EngineResult, GateResult, GpuRun, Report
from pipeline.reporting.scale import Axis, axis_from_zero, linear_axis, logarithmic_axis
from pipeline.reporting.scatter import Wish, texts_apart
from pipeline.reporting.terminal import summary_from_report
from pipeline.reporting.verdict import verdict_from_gates
from pipeline.results.engine_results import gpu_run

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
    forged = sample_report().model_copy(update={"test_samples": -1})
    with pytest.raises(
        ValueError, match=r"report\.json was not written, it breaks report\.schema\.json: \$\.test_samples"
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


def test_a_time_on_a_gpu_says_what_it_held_and_where_it_went() -> None:
    run = GpuRun(transfers=True, cuda_graph=False, spin_wait=True, h2d_ms=0.125, gpu_compute_ms=0.5, d2h_ms=0.0625)
    timed = latency(1, 0.31, 0.312, "inconclusive").model_copy(update={"gpu": run})
    report = sample_report(engines=(cpu_engines()[0].model_copy(update={"latency": (timed,)}),))
    page = words(html_from_report(report))
    assert "with transfers, no CUDA graph, spin-wait, H2D 0.125 ms, GPU compute 0.500 ms, D2H 0.0625 ms" in page
    entry = {"conditions": {"transfers": True, "cuda_graph": False, "spin_wait": True}, "phases": {"h2d_ms": 0.125}}
    assert gpu_run(entry) == GpuRun(transfers=True, cuda_graph=False, spin_wait=True, h2d_ms=0.125)
    on_cpu = {"transfers": False, "cuda_graph": False, "spin_wait": False}
    assert gpu_run({"conditions": on_cpu}) is None


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
    for make in (
        tables.engines_table,
        tables.latency_table,
        tables.gates_table,
        audit_tables.audit_table,
        audit_tables.answers_table,
    ):
        table = make(report)
        assert [sum(cell.span for cell in row) for row in table.rows] == [len(table.columns)] * len(table.rows)


def test_how_an_engine_answers_stands_in_a_table_of_its_own_and_widens_no_other() -> None:
    report = sample_report()
    (said,) = (engine.parity for engine in report.engines if engine.parity)
    ((name, answers),) = audit_tables.answers_table(report).rows
    assert (name.text, answers.text) == ("cpu INT8", said)
    assert all(said not in row[0].note for row in audit_tables.audit_table(report).rows)
    assert said in words(html_from_report(report))
    assert f"| cpu INT8 | {said} |" in markdown_from_report(report)


def test_where_no_engine_ran_no_answers_are_shown() -> None:
    assert not audit_tables.answers_table(bare_report()).rows
    assert "Its answers" not in html_from_report(bare_report()) + markdown_from_report(bare_report())


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
