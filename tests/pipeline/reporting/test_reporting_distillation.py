"""Reporting of what taught the student: curves, loss terms, the search; and of tasks whose metric is not accuracy."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sample_reports import (
    Tags,
    accuracy,
    bare_report,
    chain,
    cpu_engines,
    curve,
    on_terminal,
    sample_report,
    search_of,
    searched,
    taught,
    trial,
    words,
)

from calibration.counting import counted
from pipeline.reporting import formats, search, training
from pipeline.reporting.html import html_from_report
from pipeline.reporting.lines import BOTTOM_PX, MOST_POINTS, TOP_PX, Line, thinned
from pipeline.reporting.markdown import markdown_from_report
from pipeline.reporting.result import Curve, Distillation, LossTerm, Search
from pipeline.reporting.scale import metric_axis, sparse_logarithmic_axis
from pipeline.reporting.tables import Table


def column(table: Table, index: int = 0) -> list[str]:
    return [row[index].text for row in table.rows]


def points(plot: str) -> list[list[tuple[float, float]]]:
    """Of every line in a chart, (x, y) with x in thousandths of the width and y in pixels."""
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in line.split())]
        for line in re.findall(r'<polyline points="([^"]*)"', plot)
    ]


def headings(page: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", page)


# The model


def test_a_curve_has_one_loss_and_one_validation_value_an_epoch() -> None:
    with pytest.raises(ValidationError, match="curve of student has 2 epochs, 1 losses and 2 validation values"):
        Curve(phase="student", epochs=(1, 2), loss=(1,), validation=(0.1, 0.2), best_epoch=1)


def test_the_epochs_of_a_curve_rise_and_hold_the_best_one() -> None:
    with pytest.raises(ValidationError, match="the epochs of teacher do not rise"):
        Curve(phase="teacher", epochs=(1, 1), loss=(1, 1), validation=(0, 0), best_epoch=1)
    with pytest.raises(ValidationError, match="best epoch of teacher is 3, which is not one of its epochs"):
        Curve(phase="teacher", epochs=(1, 2), loss=(1, 1), validation=(0, 0), best_epoch=3)


def test_a_loss_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Curve(phase="student", epochs=(1,), loss=(math.nan,), validation=(0,), best_epoch=1)


# Training


def test_what_taught_the_student_stands_in_page_and_markdown() -> None:
    expected = [
        "kd",
        "hint",
        "temperature 4; alpha 0.3",
        "stages.1 from stages.1, stages.2 from stages.2",
        "from 0 to full over 2 epochs",
        "A. Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015",
        "cached: 4 views, 12.3 MB, computed in one pass",
        "AdamW, learning rate 0.004, weight decay 0.0005, cosine with warm-up",
        "12, best after epoch 11",
        "EMA 0.999 · gradient clipping 1.0",
        "mean (adapter(student) - teacher)^2",
    ]
    page, markdown = words(html_from_report(sample_report())), markdown_from_report(sample_report())
    assert [one for one in expected if one not in page] == []
    assert [one for one in expected if one not in markdown] == []


def test_the_terminal_names_the_terms_with_their_weights() -> None:
    assert "Loss: kd + 0.5 × hint\n" in re.sub(r" +\n", "\n", on_terminal(sample_report()))


@pytest.mark.parametrize(
    ("teachers", "combination", "expected"),
    [(1, "", []), (3, "average", ["3, averaged"]), (2, "confidence", ["2, weighted by confidence"])],
)
def test_several_teachers_are_counted_and_how_they_combine_is_said(
    teachers: int, combination: str, expected: list[str]
) -> None:
    found = Distillation.model_validate({"teachers": teachers, "combination": combination})
    assert column(training.distillation_table(sample_report(distillation=found)), 1) == expected


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({}, "–"),
        ({"temperature": 4.0}, "temperature 4"),
        (
            {"layers": ["a", "b"], "bank": {"size": 256, "momentum": 0.5}},
            "layers a, b; bank.momentum 0.5; bank.size 256",
        ),
        ({"standardize": True, "adapter": None}, "standardize yes; adapter none"),
        ({"pairs": []}, "pairs none"),
    ],
)
def test_settings_of_a_term_are_written_as(settings: dict[str, object], written: str) -> None:
    term = LossTerm.model_validate({"name": "a", "formula": "b", "settings": settings})
    found = training.loss_table(sample_report(distillation=Distillation(terms=(term,))))
    assert column(found, 3) == [written]


def test_a_chart_has_the_line_of_its_training_and_the_best_epoch_in_words() -> None:
    shown = training.trainings(sample_report())
    assert [(one.title, one.note) for one in shown] == [
        ("Teacher", "10 epochs, best after epoch 9"),
        ("Student", "12 epochs, best after epoch 11"),
        ("Baseline", "12 epochs, best after epoch 11"),
    ]
    loss, validation = shown[1].panels
    assert loss.title == "Loss (logarithmic): 5.89 to 0.145"
    assert validation.title == "Validation accuracy: 98.89 % at best"
    assert 'aria-label="student: Validation accuracy: 98.89 % at best"' in validation.plot
    (line,) = points(loss.plot)
    assert len(line) == 12
    assert [x for x, _ in line][:: len(line) - 1] == [0, 1000]
    assert all(above[1] < below[1] for above, below in pairwise(line))


def test_student_and_baseline_share_one_scale_and_show_each_other() -> None:
    _, student, baseline = training.trainings(sample_report())
    (of_baseline, of_student), (again_student, again_baseline) = (
        points(one.panels[1].plot) for one in (student, baseline)
    )
    assert (of_baseline, of_student) == (again_baseline, again_student)
    assert student.panels[1].scale == baseline.panels[1].scale


def test_what_a_network_knew_at_the_start_does_not_squeeze_the_rest() -> None:
    _, student, _ = training.trainings(sample_report())
    line = points(student.panels[1].plot)[-1]
    assert line[0][1] > BOTTOM_PX
    assert all(TOP_PX <= y <= BOTTOM_PX for _, y in line[3:])


@pytest.mark.parametrize("count", [1, 2, 3, 300, 5000])
def test_a_training_of_any_length_is_drawn_within_its_chart(count: int) -> None:
    report = sample_report(curves=(curve("student", count, 0.9),))
    (shown,) = training.trainings(report)
    for panel in shown.panels:
        (line,) = points(panel.plot)
        assert min(count, 2) <= len(line) + 1 <= MOST_POINTS + 1
        assert all(0 <= x <= 1000 for x, _ in line)
        assert 'class="mark fp32 best"' in panel.plot
    assert len(html_from_report(report)) < 120_000


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_values_are_a_level_line(value: float) -> None:
    flat = Curve(phase="student", epochs=(1, 2, 3), loss=(value,) * 3, validation=(value,) * 3, best_epoch=3)
    (shown,) = training.trainings(sample_report(curves=(flat,)))
    for panel in shown.panels:
        (line,) = points(panel.plot)
        assert len({y for _, y in line}) == 1
        assert TOP_PX <= line[0][1] <= BOTTOM_PX


values = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(values, st.floats(-50, 1)), min_size=1, max_size=40), st.data())
def test_any_finite_curve_can_be_shown(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    epochs = tuple(float(epoch + 1) for epoch in range(len(pairs)))
    best = data.draw(st.sampled_from(epochs))
    found = Curve(
        phase="student",
        epochs=epochs,
        loss=tuple(loss for loss, _ in pairs),
        validation=tuple(validation for _, validation in pairs),
        best_epoch=best,
    )
    (shown,) = training.trainings(bare_report().model_copy(update={"curves": (found,)}))
    drawn = "".join(f"{panel.plot}{panel.scale}" for panel in shown.panels)
    assert not re.search(r"\b(nan|inf)\b", drawn)
    marks = re.findall(r'<svg x="([\d.]+)%" y="([\d.]+)"', drawn)
    assert len(marks) == 2
    assert all(TOP_PX - 0.01 <= float(y) <= BOTTOM_PX + 0.01 for _, y in marks)


@given(st.lists(values, min_size=9, max_size=40))
def test_thinning_keeps_order_and_extremes(ys: list[float]) -> None:
    kept = list(thinned(Line(tuple(float(x) for x in range(len(ys))), tuple(ys)), most=8))
    assert len(kept) <= 8
    assert all(first[0] < second[0] for first, second in pairwise(kept))
    assert {min(ys), max(ys)} <= {y for _, y in kept}


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=9))
def test_a_small_logarithmic_axis_has_few_ticks(found: list[float]) -> None:
    axis = sparse_logarithmic_axis(found)
    assert 1 <= len(axis.ticks) <= 5
    assert axis.low <= min(found)
    assert max(found) <= axis.high


# Search


def test_the_search_is_told_in_one_sentence_everywhere() -> None:
    expected = (
        "Target: validation accuracy of at least 98.94 % (0.5 points below the teacher's 99.44 %) was met, 99.44 % at "
        "best in 7 trials; stopped: trial 6 met the target."
    )
    assert search.sentence(sample_report()) == expected
    assert expected in markdown_from_report(sample_report())
    assert expected in on_terminal(sample_report(), width=300)
    assert ("aria-label", expected) in Tags(html_from_report(sample_report())).attributes


def test_a_target_that_was_missed_by_little_is_written_with_the_digit_that_decided() -> None:
    found = Search(wanted=0.989444, met=False, best=0.98943, stopped="20 trials are spent.")
    assert search.sentence(sample_report(search=found)) == (
        "Target: validation accuracy of at least 98.944 % was not met, 98.943 % at best in 0 trials; "
        "stopped: 20 trials are spent."
    )


def test_trials_stand_best_first_with_those_that_have_no_value_last() -> None:
    table = search.trials_table(sample_report())
    assert column(table, 0) == ["6", "4", "1", "0", "5", "2", "3"]
    assert column(table, 2)[-1] == "–"
    assert [title.title for title in table.columns[4:]] == [
        "kd.temperature",
        "kd.alpha",
        "hint.weight",
        "learning_rate",
    ]
    assert table.rows[0][0].note == "chosen"


def test_at_most_thirty_trials_are_listed_and_the_rest_are_counted() -> None:
    report = sample_report(search=search_of(42))
    assert column(search.trials_table(report)) == [str(number) for number in range(41, 11, -1)]
    assert "12 more trials stand in report.json." in words(html_from_report(report))
    assert "12 more trials stand in report.json." in markdown_from_report(report)
    assert search.trials_left_out(sample_report(search=search_of(31))) == "1 more trial stands in report.json."
    assert search.trials_left_out(sample_report(search=search_of(30))) == ""


def test_a_setting_that_only_some_trials_have_is_missing_in_the_others() -> None:
    first, second = trial(0, "complete", 0.9), trial(1, "complete", 0.8)
    second = second.model_copy(update={"settings": {"optimizer": "sgd"}})
    found = searched().model_copy(update={"trials": (first, second)})
    table = search.trials_table(sample_report(search=found))
    assert [cell.text for cell in table.rows[1][4:]] == ["–", "–", "–", "–", "sgd"]
    assert [title.numeric for title in table.columns[4:]] == [True, True, True, True, False]


def test_every_trial_has_a_mark_of_its_state_and_the_chosen_one_a_ring() -> None:
    plot = search.trials_plot(sample_report())
    assert plot is not None
    states = re.findall(r'class="mark trial-(\w+)"', plot.plot)
    assert sorted(states) == ["complete"] * 3 + ["failed", "met", "pruned", "pruned"]
    assert plot.plot.count('class="ring"') == 1
    assert "<title>trial 6, met, 99.44 %</title><circle" in plot.plot


def test_a_trial_below_the_scale_or_without_a_value_is_marked_below_it() -> None:
    plot = search.trials_plot(sample_report())
    assert plot is not None
    found = re.findall(r'<svg [^>]*y="([\d.]+)"[^>]*><title>trial (\d+)', plot.plot)
    below = {int(number) for y, number in found if float(y) > search.BOTTOM_PX}
    assert below == {0, 2, 3, 5}


@pytest.mark.parametrize("count", [0, 1, 200])
def test_a_search_of_any_length_is_shown(count: int) -> None:
    page = html_from_report(sample_report(search=search_of(count)))
    assert Tags(page).open == []
    assert "Search" in headings(page)
    assert page.count('class="mark trial-complete"') == count
    assert len(page) < 200_000


# Without


def test_where_nothing_was_taught_or_searched_the_sections_vanish() -> None:
    for report in (bare_report(), sample_report(distillation=None, curves=(), search=None)):
        assert not {"Training", "Search"} & set(headings(html_from_report(report)))
        assert "## Training" not in markdown_from_report(report)
        assert "## Search" not in markdown_from_report(report)
        assert "Loss:" not in on_terminal(report)
        assert "Target:" not in on_terminal(report)


@pytest.mark.parametrize("missing", [{"distillation": None}, {"curves": ()}])
def test_curves_and_terms_stand_without_each_other(missing: dict[str, object]) -> None:
    page = html_from_report(sample_report(search=None, **missing))
    assert Tags(page).open == []
    assert "Training" in headings(page)
    assert "Search" not in headings(page)


# Other tasks


def test_a_metric_keeps_its_capitals_in_every_heading() -> None:
    report = sample_report(metric="mean IoU", curves=())
    page = html_from_report(report)
    assert "Mean IoU against latency" in headings(page)
    assert "Mean iou" not in page + markdown_from_report(report) + on_terminal(report)
    assert "| Mean IoU |" in markdown_from_report(report)
    assert "In a gate's name, accuracy stands for mean IoU." in words(page).replace("&#39;", "'")
    assert "accuracy stands for" not in html_from_report(sample_report())


def test_samples_are_called_what_they_are() -> None:
    report = sample_report(sample="sequence", test_samples=300, interval="bootstrap over samples")
    page = words(html_from_report(report))
    assert "300 test sequences" in page
    assert "test image" not in page
    assert page.count("bootstrap over samples") == 1
    assert "300 test sequences, classification, intervals: bootstrap over samples" in markdown_from_report(report)
    assert [counted(1, "image"), counted(2, "series")] == ["1 image", "2 series"]


def test_a_metric_below_zero_has_its_place_on_the_scale() -> None:
    steps = tuple(step.model_copy(update={"accuracy": accuracy(-0.05, -0.35, 0.05)}) for step in chain())
    engines = tuple(one.model_copy(update={"accuracy": accuracy(-0.05, -0.35, 0.05)}) for one in cpu_engines())
    page = words(html_from_report(sample_report(metric="variance explained", chain=steps, engines=engines)))
    assert "-5.00 %" in page
    assert "-40 %" in page


@given(st.lists(st.integers(-30_000, 10_000).map(lambda points: points / 10_000), min_size=1, max_size=6))
def test_a_metric_axis_goes_below_zero_only_where_a_value_does(found: list[float]) -> None:
    axis = metric_axis(found)
    assert axis.high <= 1
    assert axis.low <= min(found) + 1e-9
    assert (axis.low < 0) == (min(found) < 0)


@given(st.lists(st.integers(-30_000, 10_000).map(lambda points: points / 10_000), min_size=1, max_size=6))
def test_no_two_ticks_of_an_axis_read_the_same(found: list[float]) -> None:
    ticks = metric_axis(found).ticks
    assert len(set(formats.percent_ticks(ticks))) == len(ticks)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.percent(-0.000001), "0.00 %"),
        (formats.percent(-0.1234), "-12.34 %"),
        (formats.percent_pair(0.9, 0.99), ("90 %", "99 %")),
        (formats.percent_pair(None, 0.99), ("–", "99 %")),
        (formats.loss(2.314), "2.31"),
        (formats.loss(0.0), "0"),
        (formats.loss(2.5e-7), "2.50e-07"),
        (formats.loss(3.21e8), "3.21e+08"),
        (formats.heading("F1"), "F1"),
        (training.loss_in_words(taught().terms), "kd + 0.5 × hint"),
    ],
)
def test_numbers_and_words_of_a_training_are_written_as(written: object, expected: object) -> None:
    assert written == expected
