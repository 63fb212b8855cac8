from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime.simulate_bots import Bot, simulate_bot
from regime.win_probability import BINS_FROM, WinProbability


def learned(bot: Bot, count: int) -> WinProbability:
    side = WinProbability()
    for score, won in zip(bot.score[:count].tolist(), bot.won[:count].tolist(), strict=True):
        side.update(score, won)
    return side


def test_before_the_first_outcome_the_claim_stands() -> None:
    side = WinProbability()
    assert [side.probability(score) for score in (0.1, 0.5, 0.9)] == pytest.approx([0.1, 0.5, 0.9], abs=0.01)
    assert side.seen == 0
    assert side.threshold(0.53, base=0.5, current=0.5, hysteresis=0.01) == 0.53
    assert math.isnan(side.mean())


def test_a_calibrated_score_is_believed() -> None:
    bot = simulate_bot("stable good", seed=11, signals=2000)
    side = learned(bot, 2000)
    for score in (0.45, 0.55, 0.65, 0.75):
        assert side.probability(score) == pytest.approx(score, abs=0.05)
    assert side.seen == 2000


def test_a_break_is_unlearned_within_some_hundred_outcomes() -> None:
    bot = simulate_bot("permanent break", seed=12, signals=2000)
    before, after = learned(bot, 1000), learned(bot, 1300)
    assert before.probability(0.6) == pytest.approx(0.6, abs=0.06)
    assert after.probability(0.6) == pytest.approx(1 / (1 + math.exp(0.9) * 0.4 / 0.6), abs=0.09)


def test_a_score_that_says_nothing_becomes_the_base_rate() -> None:
    """It follows luck in single scores for a while (up to 0.2 off); on the average of ten bots it is near the rate."""
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        side = WinProbability()
        for score, won in zip(rng.uniform(0.8, 0.95, 600).tolist(), (rng.random(600) < 0.5).tolist(), strict=True):
            side.update(score, won)
        found.append([side.probability(0.82), side.probability(0.93), side.mean(0.8)])
    assert np.mean(found, axis=0) == pytest.approx([0.5, 0.5, 0.5], abs=0.05)
    assert np.std(found, axis=0).max() < 0.12


def test_it_beats_the_claim_and_the_base_rate_in_log_loss() -> None:
    """On four bots whose score is off in different ways, judged before each outcome is shown."""
    for kind in ("permanent break", "slow decay", "always bad", "switching"):
        bot = simulate_bot(kind, seed=14)
        side, loss, claim, rate = WinProbability(), 0.0, 0.0, 0.0
        for i, (score, won) in enumerate(zip(bot.score.tolist(), bot.won.tolist(), strict=True)):
            p, base = side.probability(score), (float(bot.won[:i].sum()) + 1) / (i + 2)
            loss -= math.log(p if won else 1 - p)
            claim -= math.log(score if won else 1 - score)
            rate -= math.log(base if won else 1 - base)
            side.update(score, won)
        assert loss < claim and loss < rate


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 90 %: more where nothing changes (the filters allow for drift that is not there), about that elsewhere."""
    covered = {}
    for kind in ("stable good", "slow decay", "switching"):
        hits = []
        for seed in range(3):
            bot = simulate_bot(kind, seed=20 + seed, signals=1500)
            side = WinProbability()
            for i, (score, won) in enumerate(zip(bot.score.tolist(), bot.won.tolist(), strict=True)):
                low, high = side.interval(score)
                assert 0.0 <= low <= side.probability(score) + 1e-12 and side.probability(score) - 1e-12 <= high <= 1.0
                if i >= 100:
                    hits.append(low <= bot.p[i] <= high)
                side.update(score, won)
        covered[kind] = float(np.mean(hits))
    assert covered["stable good"] > 0.95 and covered["slow decay"] > 0.85 and covered["switching"] > 0.85


def test_the_threshold_is_where_signals_begin_to_pay() -> None:
    side = learned(simulate_bot("always bad", seed=15), 3000)
    found = side.threshold(0.53, base=0.53, current=0.53, hysteresis=0.01)
    truth = 1 / (1 + math.exp(-(0.6 + math.log(0.53 / 0.47))))  # sigmoid(-0.6 + logit(s)) = 0.53
    assert found is not None and found == pytest.approx(truth, abs=0.06)
    assert side.probability(found + 0.02) > 0.53 > side.probability(found - 0.05)


def test_no_threshold_pays_where_nothing_does() -> None:
    side = WinProbability()
    for i in range(400):
        side.update(0.8 + (i % 15) / 100, i % 3 == 0)
    assert side.threshold(0.5, base=0.8, current=0.8, hysteresis=0.01) is None
    assert side.threshold(0.25, base=0.8, current=0.8, hysteresis=0.01) == 0.8
    assert side.threshold(0.25, base=0.8, current=None, hysteresis=0.01) == 0.8


def test_the_base_is_never_undercut_and_the_top_never_exceeded() -> None:
    side = learned(simulate_bot("stable good", seed=16), 500)
    assert side.threshold(0.3, base=0.5731, current=0.5731, hysteresis=0.01) == 0.5731
    assert side.threshold(0.3, base=0.9, current=0.6, hysteresis=0.01) == 0.9
    assert side.threshold(0.99, base=0.5, current=0.5, hysteresis=0.0, top=0.95) is None
    assert side.threshold(0.3, base=0.97, current=0.97, hysteresis=0.0, top=0.95) is None


def test_hysteresis_keeps_the_threshold_until_it_is_clearly_off() -> None:
    bot = simulate_bot("slow decay", seed=17)
    changes = []
    for hysteresis in (0.0, 0.01, 0.03):
        side, current, moved = WinProbability(), 0.53, 0
        for score, won in zip(bot.score[:1500].tolist(), bot.won[:1500].tolist(), strict=True):
            side.update(score, won)
            found = side.threshold(0.53, base=0.53, current=current, hysteresis=hysteresis)
            moved += found != current
            current = 0.53 if found is None else found
        changes.append(moved)
    assert changes[0] > 2 * changes[1] > 2 * changes[2] > 0


def test_what_was_given_up_comes_back_only_with_a_margin() -> None:
    side = WinProbability()
    for i in range(600):
        side.update(0.8 + (i % 15) / 100, i % 2 == 0)
    most = max(side.probability(s / 400) for s in range(320, 380))
    assert side.threshold(most - 0.005, base=0.8, current=None, hysteresis=0.03) is None
    again = side.threshold(most - 0.005, base=0.8, current=None, hysteresis=0.0)
    assert again is not None
    assert side.threshold(most + 0.005, base=0.8, current=again, hysteresis=0.03) is not None


def test_a_lucky_low_score_does_not_open_the_gate() -> None:
    """Scores under 0.6 win nine times in ten, those above one time in ten: the pool of all does not pay at 0.55."""
    side = WinProbability()
    for i in range(1200):
        low = i % 4 == 0
        side.update(0.55 if low else 0.75, (i % 40 != 0) if low else i % 10 == 1)
    assert side.probability(0.55) > 0.55 > side.probability(0.75)
    assert side.threshold(0.55, base=0.5, current=0.5, hysteresis=0.0) is None


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=False), st.booleans()) | st.sampled_from([(0.0, True), (1.0, False)]),
        min_size=1,
        max_size=BINS_FROM * 2,
    )
)
@settings(max_examples=60, deadline=None)
def test_absurd_streams_stay_finite(stream: list[tuple[float, bool]]) -> None:
    side = WinProbability()
    for score, won in stream:
        side.update(score, won)
    assert sum(side.weights) == pytest.approx(1.0)
    for score in (0.0, 0.3, 1.0, *(score for score, _ in stream[:5])):
        low, high = side.interval(score)
        assert 0.0 <= low <= high <= 1.0
        assert 0.0 <= side.probability(score) <= 1.0
    found = side.threshold(0.5, base=0.0, current=None, hysteresis=0.01)
    assert found is None or 0.0 <= found <= 0.99
    assert all(math.isfinite(number) for row in [*side.platt, *side.bins, side.scores] for number in row)


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_a_score_that_never_varies_stays_finite_and_learns_the_rate(score: float) -> None:
    side = WinProbability()
    for i in range(5000):
        side.update(score, i % 4 != 0)
    assert side.probability(score) == pytest.approx(0.75, abs=0.05)
    assert all(abs(number) <= 20 for row in side.platt for number in row)


def test_a_score_that_is_no_number_is_refused() -> None:
    side = WinProbability()
    with pytest.raises(ValueError, match="between 0 and 1"):
        side.update(math.nan, True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        side.probability(math.nan)
    assert side == WinProbability()


@pytest.mark.parametrize("cut", [1, BINS_FROM - 1, BINS_FROM, 200])
def test_a_snapshot_continues_bit_for_bit(cut: int) -> None:
    bot = simulate_bot("switching", seed=18, signals=400)
    whole, part = learned(bot, 400), learned(bot, cut)
    part = msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=WinProbability)
    for score, won in zip(bot.score[cut:].tolist(), bot.won[cut:].tolist(), strict=True):
        part.update(score, won)
    assert msgspec.msgpack.encode(part) == msgspec.msgpack.encode(whole)


def test_two_sides_share_nothing() -> None:
    one, other = WinProbability(), WinProbability()
    for _ in range(100):
        one.update(0.8, won=False)
    assert other == WinProbability()
