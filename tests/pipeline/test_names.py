"""Names: the nearest right one, and what may name a folder."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.names import LONGEST_NAME, checked_distinct, checked_name, nearest, unknown

METHODS = ("entropy", "minmax", "mse", "percentile")


@given(st.sampled_from(METHODS), st.data())
def test_a_name_with_one_letter_left_out_is_answered_with_the_right_one(name: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(name) - 1))
    mistyped = name[:position] + name[position + 1 :]
    assert nearest(mistyped, METHODS) == f"; did you mean '{name}'?"


def test_a_name_that_resembles_none_gets_no_guess_but_the_list() -> None:
    assert nearest("zzz", METHODS) == ""
    assert unknown("method", "zzz", METHODS) == "method 'zzz' is unknown; choose from entropy, minmax, mse, percentile"


def test_an_unknown_name_is_said_with_its_kind_the_nearest_and_all_in_order() -> None:
    assert (
        unknown("method", "entropi", reversed(METHODS))
        == "method 'entropi' is unknown; did you mean 'entropy'? choose from entropy, minmax, mse, percentile"
    )


@given(st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=LONGEST_NAME))
def test_a_name_is_kept_as_it_is_unless_it_begins_with_a_sign(name: str) -> None:
    if name[0] in "._-":
        with pytest.raises(ValueError, match="cannot name a folder"):
            checked_name(name)
    else:
        assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a b", "a\n", "ä", "a" * (LONGEST_NAME + 1), "~", "a\0"])
def test_what_no_folder_should_be_called_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a folder; write at most 64 letters, digits"):
        checked_name(name)


def test_a_value_that_stands_twice_is_named() -> None:
    assert checked_distinct(("fp32", "int8")) == ("fp32", "int8")
    with pytest.raises(ValueError, match="'int8' stands twice; write it once"):
        checked_distinct(("int8", "fp32", "int8"))
