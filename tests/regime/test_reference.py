from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from regime.errors import CorruptionError
from regime.reference import Reference


def full() -> Reference:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((5, 3))
    values[2, 0] = np.nan
    return Reference(
        ["rsi", "atr", "µ"],
        values,
        ts_ms=np.arange(5, dtype=np.int64) * 300_000,
        probability_long=rng.random(5),
        probability_short=rng.random(5),
        trained_until_ms=1_500_000,
    )


def same(one: Reference, other: Reference) -> bool:
    pairs: list[tuple[Any, Any]] = [
        (one.values, other.values),
        (one.ts_ms, other.ts_ms),
        (one.probability_long, other.probability_long),
        (one.probability_short, other.probability_short),
    ]
    for a, b in pairs:
        if (a is None) is not (b is None) or (a is not None and not np.array_equal(a, b, equal_nan=True)):
            return False
    return one.names == other.names and one.trained_until_ms == other.trained_until_ms


def test_columns_stand_in_name_order() -> None:
    reference = Reference(["b", "a"], np.array([[1.0, 2.0]]))
    assert reference.names == ("a", "b")
    assert reference.values.tolist() == [[2.0, 1.0]]


def test_bytes_and_back() -> None:
    reference = full()
    back = Reference.from_bytes(reference.to_bytes())
    assert same(back, reference)
    assert back.to_bytes() == reference.to_bytes()
    assert back.reference_id == reference.reference_id


@given(
    values=arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4))),
    until=st.none() | st.integers(0, 2**53),
)
def test_bytes_and_back_whatever_the_values(values: Any, until: int | None) -> None:
    names = [f"f{i}" for i in range(values.shape[1])]
    reference = Reference(names, values, trained_until_ms=until)
    assert same(Reference.from_bytes(reference.to_bytes()), reference)


def test_the_id_depends_on_the_content_and_not_on_the_order_of_columns() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    one = Reference(["a", "b"], values)
    assert one.reference_id == Reference(["b", "a"], values[:, ::-1]).reference_id
    others = [
        Reference(["a", "c"], values),
        Reference(["b", "a"], values),
        Reference(["a", "b"], values[::-1]),
        Reference(["a", "b"], values, trained_until_ms=1),
        Reference(["a", "b"], values, ts_ms=np.array([0, 1])),
        Reference(["a", "b"], values, probability_long=np.array([0.0, 1.0])),
        Reference(["a", "b"], values, probability_short=np.array([0.0, 1.0])),
    ]
    assert len({one.reference_id, *(other.reference_id for other in others)}) == 1 + len(others)


def test_the_id_is_32_hexadecimal_digits() -> None:
    assert len(full().reference_id) == 32
    int(full().reference_id, 16)


def test_every_missing_value_is_the_same_missing_value() -> None:
    odd = np.array([[0x7FF8000000000001]], dtype=np.uint64).view(np.float64)
    for missing in (np.array([[np.inf]]), np.array([[-np.inf]]), odd):
        assert Reference(["a"], missing).reference_id == Reference(["a"], np.array([[np.nan]])).reference_id


def _with_header(**changes: Any) -> bytes:
    magic, head, body = full().to_bytes().split(b"\n", 2)
    return magic + b"\n" + json.dumps(json.loads(head) | changes).encode() + b"\n" + body


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"regimegate-reference-2\n" + full().to_bytes().split(b"\n", 1)[1],
        b"regimegate-reference-1\n",
        b"regimegate-reference-1\n{}\n",
        b"regimegate-reference-1\n[]\n",
        b"regimegate-reference-1\n{not json}\n",
        full().to_bytes()[:-1],
        full().to_bytes()[:-8],
        full().to_bytes()[:60],
        full().to_bytes() + b"\0",
        full().to_bytes() * 2,
        _with_header(rows=4),
        _with_header(rows=6),
        _with_header(rows=0),
        _with_header(rows="many"),
        _with_header(names=["a", "b"]),
        _with_header(names=["a", "a", "b"]),
        _with_header(columns=["values", "ts_ms", "probability_long", "profit"]),
        _with_header(columns=["ts_ms", "probability_long", "probability_short"]),
    ],
)
def test_corrupt_bytes_are_said_to_be_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptionError, match="cannot be read"):
        Reference.from_bytes(raw)


@pytest.mark.parametrize(
    ("names", "values", "more", "words"),
    [
        (["a"], np.zeros((2, 2)), {}, "one column per feature: 1 names"),
        (["a"], np.zeros(2), {}, "one column per feature"),
        (["a", "b", "a"], np.zeros((2, 3)), {}, "stand twice: a"),
        (["a"], np.zeros((0, 1)), {}, "at least one row"),
        ([], np.zeros((3, 0)), {}, "at least one row and one feature"),
        (["a"], np.zeros((2, 1)), {"ts_ms": np.zeros(3, dtype=np.int64)}, r"ts_ms has shape \(3,\), expected \(2,\)"),
        (["a"], np.zeros((2, 1)), {"probability_long": np.zeros(1)}, "probability_long has shape"),
        (["a"], np.zeros((2, 1)), {"probability_short": np.zeros((2, 1))}, "probability_short has shape"),
    ],
)
def test_shapes_that_do_not_agree_are_refused_in_words(
    names: list[str], values: Any, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Reference(names, values, **more)


def test_infinity_is_missing() -> None:
    reference = Reference(["a"], np.array([[np.inf], [1.0], [-np.inf], [np.nan]]))
    assert np.isnan(reference.values[:, 0]).tolist() == [True, False, True, True]
    assert reference.missing_share().tolist() == [0.75]


def test_values_are_a_copy_and_cannot_be_written() -> None:
    values = np.zeros((2, 1))
    reference = Reference(["a"], values)
    values[0, 0] = 9.0
    assert reference.values[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        reference.values[0, 0] = 1.0


def test_a_feature_of_at_most_one_value_is_dead() -> None:
    nan = np.nan
    values = np.array([[1.0, 5.0, nan, nan, 0.0], [1.0, nan, nan, 2.0, 1.0], [1.0, 5.0, nan, nan, 0.0]])
    assert Reference(list("abcde"), values).dead().tolist() == [True, True, True, True, False]


def test_select_keeps_the_rest_of_the_sample() -> None:
    reference = full()
    chosen = reference.select(["µ", "atr"])
    assert chosen.names == ("atr", "µ")
    np.testing.assert_array_equal(chosen.values, reference.values[:, [0, 2]])
    assert chosen.trained_until_ms == reference.trained_until_ms
    assert same(reference.select(reference.names), reference)
    with pytest.raises(KeyError):
        reference.select(["nothing"])
