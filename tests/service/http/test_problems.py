"""Errors as problem+json."""

from __future__ import annotations

import json

import pytest

from regime.errors import CorruptionError, FieldError, OperatorError, RegimeError, Unavailable
from regime_service.http.problems import clean, of_error, problem


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain ü 語", "plain ü 語"),
        ("a\ud800b", "a\\ud800b"),
        ("line\nbreak\x00\x1b[31m", "line\\nbreak\\x00\\x1b[31m"),
        ("x" * 30, "x" * 17 + "..."),
    ],
)
def test_text_from_outside_is_made_fit_for_any_reader(text: str, cleaned: str) -> None:
    assert clean(text, 20) == cleaned
    clean(text).encode("utf-8")


def test_a_problem_has_the_five_members_and_names_each_value() -> None:
    response = problem(409, "Stored already.", errors=[FieldError("[3].ts_ms", "differs")])
    assert response.header("Content-Type") == "application/problem+json"
    assert json.loads(response.body) == {
        "type": "urn:regimegate:problem:conflict", "title": "Something else is stored under the same key",
        "status": 409, "detail": "Stored already.", "errors": [{"path": "[3].ts_ms", "message": "differs"}],
    }  # fmt: skip


@pytest.mark.parametrize(("status", "becomes"), [(500, 503), (418, 400), (599, 503)])
def test_a_status_outside_of_the_contract_becomes_one_of_it(status: int, becomes: int) -> None:
    assert problem(status, "x").status == becomes


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        (Unavailable("full", retry_after_s=7), "7"),
        (Unavailable("full", retry_after_s=0), "1"),
        (CorruptionError("row 7 is damaged"), "5"),
        (OperatorError("no such folder"), "5"),
        (RegimeError("anything"), "5"),
    ],
)
def test_whatever_is_not_the_callers_fault_is_a_503_with_retry_after(error: RegimeError, retry_after: str) -> None:
    response = of_error(error)
    assert (response.status, response.header("Retry-After")) == (503, retry_after)
