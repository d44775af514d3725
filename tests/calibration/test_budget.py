"""The search for the most INT8 within a budget, on costs that add up and on costs that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.budget import Costs, Judged, search

Judge = Callable[[frozenset[str]], Judged]


def additive(noise: Mapping[str, float], win: Mapping[str, float], limit: float) -> tuple[Judge, list[frozenset[str]]]:
    """A judge to whom the noises of the layers in INT8 add up, and the list of what it was asked."""
    asked: list[frozenset[str]] = []

    def judge(spared: frozenset[str]) -> Judged:
        assert spared != frozenset(win), "a placement without INT8 is no placement"
        asked.append(spared)
        total = sum(value for name, value in noise.items() if name not in spared)
        value = sum(each for name, each in win.items() if name not in spared)
        return Judged(spared, total <= limit, value, (-total,))

    return judge, asked


def costs(noise: Mapping[str, float], win: Mapping[str, float], groups: Mapping[str, str] | None = None) -> Costs:
    return Costs(noise, win, groups or {name: name for name in win})


def test_where_all_of_it_is_within_the_budget_one_placement_is_tried() -> None:
    noise, win = {"a": 1.0, "b": 1.0}, {"a": 5.0, "b": 5.0}
    judge, asked = additive(noise, win, limit=2)
    assert search(costs(noise, win), judge, 40).spared == frozenset()
    assert asked == [frozenset()]


def test_the_one_layer_that_ruins_the_answer_is_spared_and_no_other() -> None:
    win = {f"layer{i}": 1.0 for i in range(50)}
    noise = dict.fromkeys(win, 0.01) | {"layer17": 5.0}
    judge, asked = additive(noise, win, limit=1)
    found = search(costs(noise, win), judge, 40)
    assert found.spared == {"layer17"}
    assert found.within
    assert len(asked) <= 20


def test_a_layer_that_was_spared_with_others_is_taken_back() -> None:
    # What is known of the layers misleads: "cheap" looks worst and costs nothing.
    known, true = {"cheap": 9.0, "bad": 8.0, "good": 0.1}, {"cheap": 0.0, "bad": 8.0, "good": 0.1}
    win = dict.fromkeys(known, 1.0)
    judge, _ = additive(true, win, limit=1)
    assert search(costs(known, win), judge, 40).spared == {"bad"}


def test_of_two_layers_that_cost_the_same_the_one_with_fewer_multiply_adds_is_spared() -> None:
    noise, win = {"small": 1.0, "large": 1.0}, {"small": 1.0, "large": 9.0}
    judge, _ = additive(noise, win, limit=1)
    assert search(costs(noise, win), judge, 40).spared == {"small"}


def test_layers_that_only_cost_together_are_spared_as_a_block() -> None:
    win = dict.fromkeys("abcdefgh", 1.0)
    groups = {name: "block" if name in "gh" else name for name in win}
    noise = dict.fromkeys(win, 0.5) | {"g": 0.3, "h": 0.3}

    def judge(spared: frozenset[str]) -> Judged:
        within = {"g", "h"} <= spared  # half a block is worse than none
        return Judged(spared, within, sum(each for name, each in win.items() if name not in spared), (0.0,))

    assert search(Costs(noise, win, groups), judge, 40).spared == {"g", "h"}


def test_what_wins_nothing_in_int8_is_spared_before_anything_is_tried() -> None:
    noise, win = {"fast": 0.1, "slower": 0.1}, {"fast": 2.0, "slower": -1.0}
    judge, asked = additive(noise, win, limit=1)
    assert search(costs(noise, win), judge, 40).spared == {"slower"}
    assert asked == [{"slower"}]


def test_where_nothing_is_within_the_closest_that_was_tried_comes_back() -> None:
    noise, win = {"a": 3.0, "b": 2.0, "c": 4.0}, {"a": 1.0, "b": 1.0, "c": 1.0}
    judge, _ = additive(noise, win, limit=1)
    found = search(costs(noise, win), judge, 40)
    assert found.spared == {"a", "c"}
    assert not found.within


def test_a_layer_that_fits_alone_is_found_where_no_order_leads_to_it() -> None:
    known = {"a": 1.0, "b": 2.0, "c": 3.0}
    win = dict.fromkeys(known, 1.0)
    judge, _ = additive({"a": 5.0, "b": 5.0, "c": 0.5}, win, limit=1)
    assert search(costs(known, win), judge, 40).spared == {"a", "b"}


@pytest.mark.parametrize("most", [1, 3, 7])
def test_no_more_placements_are_tried_than_allowed_and_none_twice(most: int) -> None:
    noise = {f"layer{i}": 1.0 + i for i in range(30)}
    win = dict.fromkeys(noise, 1.0)
    judge, asked = additive(noise, win, limit=20)
    search(costs(noise, win), judge, most)
    assert len(asked) == len(set(asked)) <= most


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.1, 10)), min_size=1, max_size=7), st.floats(0.01, 20))
def test_what_is_found_is_within_whenever_anything_is_and_spares_no_layer_needlessly(
    layers: list[tuple[float, float]], limit: float
) -> None:
    noise = {f"layer{i}": each for i, (each, _) in enumerate(layers)}
    win = {f"layer{i}": each for i, (_, each) in enumerate(layers)}
    judge, _ = additive(noise, win, limit)
    found = search(costs(noise, win), judge, 200)
    possible = [
        judge(frozenset(spared)) for count in range(len(layers)) for spared in combinations(sorted(noise), count)
    ]
    assert found.within == any(each.within for each in possible)
    if found.within and found.spared:
        assert not any(judge(found.spared - {layer}).within for layer in found.spared)
