"""What every rule in regime/rules promises, tried with its default options."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import msgspec
import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.outcomes import Outcome
from regime.plugins import available, load
from regime.policy import PRESETS
from regime.rules import DataView, Evidence, Rule, View, Vote

PACKAGE = "regime.rules"
KINDS = available(PACKAGE)
NOW_MS = 1_762_146_300_000
TIMEFRAME_MS = 300_000

DATA = DataView(
    observations=1000, reference_rows=5000, warmup_observations=50, require_observations=True, data_until_ms=NOW_MS,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip


def closed(count: int, *, won: int, kind: str = "ml_exit", profit: float = 0.01) -> tuple[Outcome, ...]:
    """`count` trades, the newest `won` of them wins."""
    return tuple(
        Outcome(
            closed_ms=NOW_MS - (count - i) * TIMEFRAME_MS, profit_ratio=profit if i >= count - won else -0.01,
            exit_kind=kind, shadow=False,
        )
        for i in range(count)
    )  # fmt: skip


CALM = View(
    now_ms=NOW_MS, timeframe_ms=TIMEFRAME_MS, side="long", model=ModelConfig(), data=DATA,
    evidence=(Evidence("ks", 0.1, 1.0, warm=True, drift=False, top=()),), outcomes=closed(100, won=80),
    drawdown_ratio=0.0, drawdown_source="equity", standing=None, standing_since_ms=None, lifted_ms=None,
)  # fmt: skip
NEW = CALM._replace(
    evidence=(Evidence("ks", math.nan, math.nan, warm=False, drift=False, top=()),), outcomes=(),
    drawdown_source="none",
)  # fmt: skip
TROUBLED = CALM._replace(
    data=DATA._replace(
        observations=1, reference_rows=0, data_until_ms=NOW_MS - 9 * TIMEFRAME_MS, non_finite=("a",), missing=("b",),
        extra=("c",), error="ValueError: x",
    ),
    evidence=(Evidence("ks", 2.0, 1.0, warm=True, drift=True, top=(("a", 3.0),)),),
    outcomes=closed(100, won=0, kind="stop_loss"), drawdown_ratio=0.5,
)  # fmt: skip
VIEWS = {
    "calm": CALM, "new": NEW, "troubled": TROUBLED,
    "silent": CALM._replace(data=DATA._replace(require_observations=False, data_until_ms=None, observations=0)),
    "won all": CALM._replace(outcomes=closed(100, won=100)),
    "lost all": CALM._replace(outcomes=closed(100, won=0)),
    "one trade": CALM._replace(outcomes=closed(1, won=0)),
    "drift without limit": CALM._replace(evidence=(Evidence("ks", 1.0, 0.0, warm=True, drift=True, top=()),)),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest) -> Any:
    return load(PACKAGE, request.param)


def test_there_are_rules() -> None:
    used = {rule.kind for preset in PRESETS.values() for rule in preset.rules}
    assert used <= set(KINDS)


def test_it_needs_no_options_and_has_a_code_and_judges(made: Any) -> None:
    rule = made()
    assert isinstance(rule, Rule)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.code)


def test_codes_are_different() -> None:
    codes = [load(PACKAGE, kind).code for kind in KINDS]
    assert len(set(codes)) == len(codes)


def test_options_are_keywords_with_defaults(made: Any) -> None:
    for parameter in inspect.signature(made).parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert isinstance(parameter.default, bool | int | float | str)


def test_a_calm_view_has_no_vote(made: Any) -> None:
    assert made().judge(CALM) is None


def test_missing_outcomes_and_cold_detectors_never_vote(made: Any) -> None:
    assert made().judge(NEW) is None


@pytest.mark.parametrize("name", VIEWS)
def test_the_same_view_has_the_same_vote_whatever_came_before(made: Any, name: str) -> None:
    rule = made()
    first = rule.judge(VIEWS[name])
    for view in VIEWS.values():
        rule.judge(view)
    assert rule.judge(VIEWS[name]) == first == made().judge(VIEWS[name])


@pytest.mark.parametrize("name", VIEWS)
def test_a_vote_is_plain_and_can_be_read(made: Any, name: str) -> None:
    vote = made().judge(VIEWS[name])
    if vote is None:
        return
    assert isinstance(vote, Vote)
    assert vote.code == made.code
    assert vote.text
    assert vote.lift, "every vote says what would lift it"
    assert all(sentence for sentence in vote.lift)
    for value in (vote.value, vote.limit):
        assert value is None or math.isfinite(value)
    for value in (vote.entry, vote.exit, vote.size_factor):
        assert value is None or 0.0 <= value <= 1.0
    assert vote.state in (None, TradingState.REDUCING), "only an operator sets HALTED"
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(vote), type=Vote)
    assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(vote), "an int in the place of a float"


def test_a_standing_vote_may_stand_or_end_but_stays_the_rules_own(made: Any) -> None:
    rule = made()
    vote = rule.judge(TROUBLED)
    if vote is None:
        return
    later = TROUBLED._replace(now_ms=NOW_MS + TIMEFRAME_MS, standing=vote, standing_since_ms=NOW_MS)
    again = rule.judge(later)
    assert again is not None
    assert (again.code, again.fault, again.state) == (vote.code, vote.fault, vote.state)


def test_a_vote_ends_when_all_is_calm_for_long(made: Any) -> None:
    rule = made()
    vote = rule.judge(TROUBLED)
    if vote is None:
        return
    year_ms = 365 * 86_400_000
    healthy = tuple(
        msgspec.structs.replace(o, closed_ms=o.closed_ms + year_ms) for o in closed(100, won=100)
    )  # fmt: skip
    calm = CALM._replace(
        now_ms=NOW_MS + year_ms, data=DATA._replace(data_until_ms=NOW_MS + year_ms), outcomes=healthy,
        standing=vote, standing_since_ms=NOW_MS,
    )  # fmt: skip
    assert rule.judge(calm) is None


WRONG: dict[type, list[Any]] = {
    bool: ["yes", 1], int: [0, -1, 1.5, "3", True, math.nan], float: [-0.1, math.nan, math.inf, "x", True],
    str: ["", 5],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_option_is_refused_in_words_that_name_it(kind: str) -> None:
    made = load(PACKAGE, kind)
    for name, parameter in inspect.signature(made).parameters.items():
        for wrong in WRONG[type(parameter.default)]:
            with pytest.raises(ValueError, match=name):
                made(**{name: wrong})


def test_an_unknown_option_is_refused(made: Any) -> None:
    with pytest.raises(TypeError, match=r"nonsense|takes no arguments"):
        made(nonsense=1)


def test_whole_numbers_are_taken_where_a_number_is_expected_and_change_nothing(made: Any) -> None:
    numbers = {
        name: 1
        for name, p in inspect.signature(made).parameters.items()
        if isinstance(p.default, float) and name != "z"
    }
    rule = made(**numbers)
    for view in VIEWS.values():
        assert rule.judge(view) == made(**{name: 1.0 for name in numbers}).judge(view)
