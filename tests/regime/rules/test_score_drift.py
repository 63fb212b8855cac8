from __future__ import annotations

from regime.decision import TradingState
from regime.rules import Evidence, View, Vote
from regime.rules.score_drift import ScoreDrift


def heard(statistic: float, channel: str = "scores") -> Evidence:
    top = (("probability_long", 1.4), ("probability_short", 0.3)) if statistic > 1 else ()
    return Evidence("ks", statistic, 1.0, warm=True, drift=statistic > 1, top=top, channel=channel)


def view(*evidence: Evidence, standing: Vote | None = None) -> View:
    return View(
        now_ms=1, timeframe_ms=1, side="long", model=None, data=None, evidence=evidence, outcomes=(),
        drawdown_ratio=0.0, drawdown_source="none", standing=standing, standing_since_ms=None, lifted_ms=None,
    )  # type: ignore[arg-type]  # fmt: skip


def test_calm_scores_have_no_vote_and_features_are_not_its_business() -> None:
    assert ScoreDrift().judge(view(heard(0.5), heard(7.0, channel="features"))) is None


def test_it_names_the_claims_that_moved_and_changes_nothing_by_itself() -> None:
    vote = ScoreDrift().judge(view(heard(2.0)))
    assert vote is not None
    assert "probability long" in vote.text and "probability short" not in vote.text
    assert (vote.state, vote.entry) == (None, None)
    paused = ScoreDrift(pause=True).judge(view(heard(2.0)))
    assert paused is not None and paused.state is TradingState.REDUCING


def test_it_ends_under_the_lower_limit_only() -> None:
    standing = ScoreDrift().judge(view(heard(2.0)))
    assert ScoreDrift().judge(view(heard(0.9), standing=standing)) == standing
    assert ScoreDrift().judge(view(heard(0.79), standing=standing)) is None
