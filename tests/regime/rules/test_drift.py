from __future__ import annotations

import math

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.rules import DataView, Evidence, View, Vote
from regime.rules.drift import Drift

NOW_MS, CANDLE_MS = 1_762_146_300_000, 300_000
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=NOW_MS,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip
VIEW = View(
    now_ms=NOW_MS, timeframe_ms=CANDLE_MS, side="long", model=ModelConfig(), data=DATA, evidence=(), outcomes=(),
    drawdown_ratio=0.0, drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
)  # fmt: skip


def heard(statistic: float, *, kind: str = "ks", limit: float = 1.0, warm: bool = True) -> Evidence:
    top = (("rsi", 3.0), ("atr", 2.0), ("roc", 1.5), ("adx", 1.2))
    return Evidence(kind, statistic, limit, warm=warm, drift=warm and statistic > limit, top=top)


def view(*evidence: Evidence, base: float = 0.8, standing: Vote | None = None) -> View:
    return VIEW._replace(
        evidence=evidence, model=ModelConfig(entry=base), standing=standing,
        standing_since_ms=None if standing is None else NOW_MS - CANDLE_MS,
    )  # fmt: skip


def rung() -> Vote:
    vote = Drift().judge(view(heard(2.0)))
    assert vote is not None
    return vote


@pytest.mark.parametrize(
    ("evidence", "voted"),
    [
        ((), False),
        ((heard(1.0),), False),
        ((heard(1.01),), True),
        ((heard(math.nan, warm=False),), False),
        ((heard(2.0, kind="adwin"),), False),
        ((heard(0.5), heard(2.0, kind="adwin")), False),
    ],
)
def test_a_detector_that_counts_and_rings_raises_the_entry_threshold(
    evidence: tuple[Evidence, ...], voted: bool
) -> None:
    vote = Drift().judge(view(*evidence))
    assert (vote is not None) is voted
    if vote is not None:
        assert (vote.entry, vote.state, vote.fault) == (0.85, None, False)
        assert "rsi, atr, roc" in vote.text
        assert "adx" not in vote.text


def test_several_kinds_may_count_and_the_worst_against_its_limit_is_named() -> None:
    both = (heard(2.0), heard(30.0, kind="adwin", limit=10.0))
    vote = Drift(detectors="ks, adwin").judge(view(*both))
    assert vote is not None
    assert "adwin 30.00 over its limit 10.00" in vote.text
    assert (vote.value, vote.limit) == (30.0, 10.0)


@pytest.mark.parametrize(
    ("base", "entry"), [(0.8, 0.85), (0.93, 0.95), (0.95, 0.95), (0.97, 0.97), (1.0, 1.0), (0.0, 0.05)]
)
def test_the_entry_threshold_is_raised_to_its_maximum_and_never_lowered(base: float, entry: float) -> None:
    vote = Drift().judge(view(heard(2.0), base=base))
    assert vote is not None
    assert vote.entry == entry


@pytest.mark.parametrize(
    ("statistic", "stands"), [(2.0, True), (0.81, True), (0.8, False), (0.1, False), (math.nan, False)]
)
def test_it_ends_under_release_times_the_limit(statistic: float, stands: bool) -> None:
    vote = rung()
    again = Drift().judge(view(heard(statistic), standing=vote))
    assert again == (vote if stands else None)


def test_a_detector_started_anew_ends_it() -> None:
    assert Drift().judge(view(heard(math.nan, warm=False), standing=rung())) is None


def test_it_pauses_when_the_option_says_so() -> None:
    vote = Drift(pause=True).judge(view(heard(2.0)))
    assert vote is not None
    assert vote.state is TradingState.REDUCING


def test_a_limit_of_zero_and_no_feature_that_stands_out_do_no_harm() -> None:
    vote = Drift().judge(view(Evidence("ks", 0.5, 0.0, warm=True, drift=True, top=())))
    assert vote is not None
    assert "most of all no single one" in vote.text


def levelled(level: str, statistic: float, note: str = "") -> Evidence:
    return Evidence(
        "calibrated", statistic, 10.0, warm=True, drift=statistic > 10, top=(("rsi", 2.0),), level=level, note=note
    )


def test_a_warning_is_a_reason_without_consequence() -> None:
    vote = Drift().judge(view(levelled("warning", 9.0)))
    assert vote is not None
    assert (vote.entry, vote.state, vote.value, vote.limit) == (None, None, 9.0, 10.0)
    assert "begin to leave" in vote.text


def test_an_alarm_says_what_changed_and_follows_a_warning_at_once() -> None:
    warned = Drift().judge(view(levelled("warning", 9.0)))
    alarm = Drift().judge(view(levelled("alarm", 11.0, "the spread of atr, since about noon"), standing=warned))
    assert alarm is not None
    assert alarm.entry == 0.85
    assert "the spread of atr, since about noon" in alarm.text


def test_an_alarm_stands_until_the_detector_says_it_is_over() -> None:
    alarm = Drift().judge(view(levelled("alarm", 11.0)))
    assert Drift().judge(view(levelled("alarm", 8.5), standing=alarm)) == alarm
    assert Drift().judge(view(levelled("calm", 7.0), standing=alarm)) is None


def test_a_warning_stands_through_its_own_level_and_ends_with_it() -> None:
    warned = Drift().judge(view(levelled("warning", 9.0)))
    assert Drift().judge(view(levelled("warning", 8.2), standing=warned)) == warned
    assert Drift().judge(view(levelled("calm", 7.0), standing=warned)) is None


def test_the_scores_are_another_rules_business() -> None:
    scores = levelled("alarm", 11.0)._replace(channel="scores")
    assert Drift().judge(view(scores)) is None
