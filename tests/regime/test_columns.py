"""From named features to a row."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regime.columns import Columns
from regime.config import ignored

names = st.lists(st.sampled_from([f"f{i}" for i in range(8)] + ["raw_a", "raw_b"]), unique=True, max_size=10)
values = st.one_of(st.none(), st.floats())


def test_a_row_is_in_the_order_of_what_is_known_whatever_order_came() -> None:
    columns = Columns(("b", "raw_x", "a", "z"), ("a", "b", "c"), ["raw_*"])
    row = columns.row([2.0, 9.0, None, 7.0])
    np.testing.assert_array_equal(row, [np.nan, 2.0, np.nan])
    assert (columns.missing, columns.extra, columns.absent(row)) == (("c",), ("z",), ("a",))


def test_while_nothing_is_known_all_that_is_sent_is_compared_in_name_order() -> None:
    columns = Columns(("b", "raw_x", "a"), (), ["raw_*"])
    assert (columns.known, columns.missing, columns.extra) == (("a", "b"), (), ())


def test_infinities_are_no_values() -> None:
    """JSON has none: an event of this process must count as the same event read from the log."""
    columns = Columns(("a", "b", "c"), ("a", "b", "c"), [])
    row = columns.row([math.inf, -math.inf, math.nan])
    assert np.isnan(row).all() and columns.absent(row) == ("a", "b", "c")


@given(names, names, st.data())
def test_it_says_what_one_would_find_name_by_name(sent: list[str], known: list[str], data: st.DataObject) -> None:
    features = {name: data.draw(values) for name in sent}
    columns = Columns(tuple(features), tuple(known), ["raw_*"])
    seen = {name: value for name, value in features.items() if not ignored(name, ["raw_*"])}
    compared = known or sorted(seen)
    row = columns.row(features.values())
    assert list(columns.known) == compared
    assert list(columns.missing) == [name for name in compared if name not in seen]
    assert list(columns.extra) == sorted(name for name in seen if name not in compared)
    for name, value in zip(compared, row, strict=True):
        sent_value = seen.get(name)
        if sent_value is None or not math.isfinite(sent_value):
            assert math.isnan(value)
            assert (name in columns.absent(row)) == (name in seen)
        else:
            assert value == sent_value and name not in columns.absent(row)
