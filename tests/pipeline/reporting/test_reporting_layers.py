"""What the report shows of each layer: the table, the marks, the placements that were tried, and the gate."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sample_reports import bare_report, sample_report, words

from pipeline.artifact import Graphs
from pipeline.reporting import layers
from pipeline.reporting.document import document_from_report, schema_errors
from pipeline.reporting.html import html_from_report
from pipeline.reporting.markdown import markdown_from_report
from pipeline.reporting.terminal import summary_from_report
from pipeline.results.layer_results import budget_gates, layers_of, repairs_of

DROP = {"value": 0.5, "low": -0.5, "high": 1.5, "n": 180, "confidence": 0.95}


def evaluation(sqnr_db: float, drop: dict[str, float] | None = None) -> dict[str, Any]:
    return {"sqnr_db": sqnr_db, "metric": 0.98, "drop_points": drop or DROP}


def layer(number: int, spared: bool = False, judged: bool = True) -> dict[str, Any]:
    return {
        "node": f"node_{number}",
        "module": f"stages.{number}.conv<b>",
        "share": 0.05,
        "input": f"tensor_{number}",
        "range": [-1.25, 6.0],
        "saturation": 0.00123,
        "local_sqnr_db": 38.0 + number,
        "only": evaluation(45.0 - number) if judged else None,
        "without": evaluation(30.0) if judged else None,
        "spared": spared,
        "reason": "spared for the budget" if spared else "",
    }


def sensitivity(folder: Path, count: int = 3, basis: str = "estimated", **budget: Any) -> Graphs:
    """The artifact of a calibration that looked at `count` layers."""
    trials = [
        {"spared": [], "int8_share": 0.99, "within": False, **evaluation(28.0, {**DROP, "value": 2.0, "high": 3.0})},
        {"spared": ["node_2"], "int8_share": 0.8, "within": True, **evaluation(36.0)},
    ]
    document = {
        "metric": "accuracy",
        "judged_on": "validation split",
        "samples": 180,
        "budget": budget or None,
        "families": {
            "cpu": {
                "placed": {
                    "int8_share": 0.8,
                    "time_in_float": {"basis": basis, "share": 0.375, "float_ms": 0.3, "layers_ms": 0.8},
                },
                "layers": [layer(number, spared=number == 2 and bool(budget)) for number in range(count)],
                "budget": {"met": True, "why": "80.0%; inconclusive: 180 samples", "chosen": 1, "trials": trials}
                if budget
                else None,
            }
        },
    }
    intervals = {"low_interval": [-1.5, -1.0], "high_interval": [5.4, 6.6]}
    ranges = {"tensors": {f"tensor_{number}": {"low": -1.25, "high": 6.0, **intervals} for number in range(count)}}
    (folder / "ranges.json").write_text(json.dumps(ranges))
    (folder / "sensitivity.json").write_text(json.dumps(document))
    return Graphs(folder)


def test_the_report_shows_each_layer_with_range_saturation_sqnr_and_cost_and_why_it_was_spared(tmp_path: Path) -> None:
    report = sample_report(layers=layers_of(sensitivity(tmp_path, max_drop=1)))
    assert schema_errors(document_from_report(report)) == []
    page = html_from_report(report)
    assert "conv<b>" not in page
    told = words(page)
    for expected in (
        "Layers in INT8",
        "Budget (accuracy at most 1 point below FP32's) met: 80.0%; inconclusive: 180 samples.",
        "-1.25 … 6.00",
        "±10.0%",
        "0.123%",
        "spared for the budget",
    ):
        assert expected in told
        assert expected in markdown_from_report(report).replace("&lt;", "<")
    assert layers.worst_first(report.layers[0])[0].node == "node_2"


def test_placements_are_drawn_and_listed_with_the_chosen_one_first(tmp_path: Path) -> None:
    (family,) = layers_of(sensitivity(tmp_path, max_drop=1))
    curve = layers.curve(family)
    assert curve is not None
    assert curve.plot.count('class="ring"') == 1
    assert curve.plot.count("hollow") == 1
    rows = layers.placements_table(family).rows
    assert [row[0].note for row in rows] == ["chosen", ""]
    assert [cell.text for cell in rows[0]] == ["80.0%", "1", "36.0 dB", "-0.50", "within"]
    assert rows[0][3].note == "[-1.50, 0.50]"


def test_without_a_budget_there_are_layers_and_nothing_else(tmp_path: Path) -> None:
    (family,) = layers_of(sensitivity(tmp_path))
    assert layers.curve(family) is None
    assert layers.sentence(family) == ""
    assert layers.placements_table(family).rows == ()
    assert list(budget_gates(Graphs(tmp_path))) == []
    assert "Budget (" not in words(html_from_report(sample_report(layers=(family,))))


def test_where_nobody_looked_the_section_vanishes(tmp_path: Path) -> None:
    assert layers_of(Graphs(tmp_path)) == ()
    assert list(budget_gates(Graphs(tmp_path))) == []
    assert "Layers in INT8" not in html_from_report(bare_report()) + markdown_from_report(bare_report())


def test_more_layers_than_a_page_holds_are_counted(tmp_path: Path) -> None:
    (family,) = layers_of(sensitivity(tmp_path, count=30))
    assert len(layers.layers_table(family).rows) == 24
    assert layers.left_out(family) == "6 more layers in report.json."


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"max_drop": 1.0}, [("calibrate.max_drop", 0.5, "passed", "inconclusive: 180 samples")]),
        ({"max_drop": 0.3}, [("calibrate.max_drop", 0.5, "failed", "")]),
        ({"max_drop": 1.0, "decide_by": "bound"}, [("calibrate.max_drop", 1.5, "failed", "")]),
        (
            {"min_sqnr_db": 40.0, "min_int8_share": 0.7},
            [("calibrate.min_sqnr_db", 36.0, "failed", ""), ("calibrate.min_int8_share", 0.8, "passed", "")],
        ),
    ],
)
def test_a_budget_is_a_gate(tmp_path: Path, budget: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    found = budget_gates(sensitivity(tmp_path, **budget))
    assert [(gate.name, gate.value, gate.state, gate.detail) for gate in found] == expected


def test_the_report_says_how_much_of_the_layers_time_stays_in_float_and_how_it_knows(tmp_path: Path) -> None:
    report = sample_report(layers=layers_of(sensitivity(tmp_path)))
    told = (
        "80.0% of the multiply-adds in INT8. Layers in float take an estimated 37.5% of the time of all layers "
        "(0.300 of 0.800 ms; one sample, one thread, from costs per operator, without Q, DQ and what stands between "
        "layers)."
    )
    stream = io.StringIO()
    Console(file=stream, width=400).print(summary_from_report(report))
    for shown in (words(html_from_report(report)), markdown_from_report(report), stream.getvalue()):
        assert told in shown
    document = document_from_report(report)
    assert schema_errors(document) == []
    assert document["layers"][0]["time_in_float"]["basis"] == "estimated"
    measured = sample_report(layers=layers_of(sensitivity(tmp_path, basis="measured")))
    assert "Layers in float take 37.5% of the measured time of all layers (0.300 of 0.800 ms)." in markdown_from_report(
        measured
    )
    unknown = measured.layers[0].model_copy(update={"time_in_float": None})
    assert layers.placed(unknown) == "80.0% of the multiply-adds in INT8."


def test_the_report_shows_what_each_repair_brought_and_what_decided(tmp_path: Path) -> None:
    metric = {"name": "accuracy", "judged_on": "validation split", "samples": 256, "of_samples": 1000}
    changed = {
        "before": 0.978,
        "after": 0.95,
        "gain_points": {"value": -2.8, "low": -4.1, "high": -1.5},
        "confidence": 0.95,
    }
    tried = {"repair": "bias", "family": "cpu", "samples": 32, "sqnr_db": {"before": 30.0, "after": 31.25}}
    first = {**tried, "metric": {**metric, **changed}, "decided_by": "metric", "kept": False}
    second = {**tried, "repair": "rounding", "metric": None, "decided_by": "output error", "kept": True}
    (tmp_path / "placement.json").write_text(json.dumps({"repairs": [first, second]}))
    report = sample_report(repairs=tuple(repairs_of(Graphs(tmp_path))))
    document = document_from_report(report)
    assert schema_errors(document) == []
    assert document["repairs"][0]["metric"]["gain_points"]["low"] == -4.1
    for shown in (words(html_from_report(report)), markdown_from_report(report)):
        assert "97.8% → 95.0%" in shown
        assert "-2.80 points [-4.10, -1.50], validation split, 256 of 1,000 samples" in shown
        assert "30.0 → 31.2 dB" in shown
        assert "left out" in shown
    assert "Repairs" not in words(html_from_report(sample_report()))
