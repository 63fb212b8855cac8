from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from regime.edge import DAY_MS, Edge, Z, auc, auc_interval, auc_z, break_even_interval, edge, out_of_sample, reliability
from regime.outcomes import Outcome
from regime.simulate_bots import Bot, simulate_bot, steady_bot

TRAINED_MS = 1_740_787_200_000  # 2025-03-01
TEN_A_DAY = DAY_MS // 10


def outcomes(bot: Bot, count: int, *, shadow_every: int = 0) -> list[Outcome]:
    return [
        Outcome(
            closed_ms=TRAINED_MS + (i + 1) * TEN_A_DAY,
            profit_ratio=0.01 * r,
            exit_kind="other",
            shadow=shadow_every > 0 and i % shadow_every == 0,
            entry_probability=s,
        )
        for i, (s, r) in enumerate(zip(bot.score[:count].tolist(), bot.returns[:count].tolist(), strict=True))
    ]


# --- AUC -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=60))
def test_the_auc_is_that_of_scikit_learn_ties_included(pairs: list[tuple[int, bool]]) -> None:
    scores, won = [s / 8 for s, _ in pairs], [y for _, y in pairs]
    if len(set(won)) < 2:
        assert math.isnan(auc(scores, won))
    else:
        assert auc(scores, won) == pytest.approx(roc_auc_score(won, scores))


@given(st.floats(0, 1), st.integers(1, 400), st.integers(1, 400))
def test_the_auc_interval_holds_the_auc_and_stays_in_range(area: float, wins: int, losses: int) -> None:
    low, high = auc_interval(area, wins, losses)
    assert 0.0 <= low <= area <= high <= 1.0


def test_the_auc_interval_has_a_width_even_at_the_ends_and_none_without_an_auc() -> None:
    low, high = auc_interval(1.0, 25, 25)
    assert 0.9 < low < 0.96 and high == 1.0
    assert all(math.isnan(end) for end in auc_interval(math.nan, 3, 0))
    assert auc_interval(0.47, 150, 150) == pytest.approx((0.416, 0.525), abs=0.001)


@given(st.floats(0.01, 0.99), st.integers(2, 400), st.integers(2, 400))
def test_standard_errors_and_interval_agree_on_what_ranks(area: float, wins: int, losses: int) -> None:
    z, low = auc_z(area, wins, losses), auc_interval(area, wins, losses)[0]
    assert (z > Z) == (low > 0.5) or abs(z - Z) < 1e-6
    assert math.isnan(auc_z(math.nan, 0, losses))


@pytest.mark.parametrize(("separation", "trades"), [(0.0, 60), (0.5, 60), (0.0, 300), (0.5, 300), (1.5, 100)])
def test_the_auc_interval_covers_the_truth_nine_times_in_ten(separation: float, trades: int) -> None:
    """The scores of wins are normal, shifted by `separation`: the true AUC is Phi(separation / sqrt 2)."""
    rng = np.random.default_rng([21, trades, round(separation * 10)])
    truth = 0.5 * (1 + math.erf(separation / 2))
    hits = []
    for _ in range(400):
        won = rng.random(trades) < 0.55
        scores = rng.standard_normal(trades) + separation * won
        wins = int(won.sum())
        low, high = auc_interval(auc(scores.tolist(), won.tolist()), wins, trades - wins)
        hits.append(low <= truth <= high)
    assert 0.86 <= np.mean(hits) <= 0.94


# --- reliability ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=250))
def test_bins_share_out_all_trades_in_the_order_of_the_scores(pairs: list[tuple[int, bool]]) -> None:
    scores, won = [s / 12 for s, _ in pairs], [y for _, y in pairs]
    bins = reliability(scores, won)
    assert sum(b.count for b in bins) == len(pairs)
    assert sum(b.count * b.realised for b in bins) == pytest.approx(sum(won))
    assert sum(b.count * b.claimed for b in bins) == pytest.approx(sum(scores))
    assert all(b.low <= b.claimed + 1e-12 and b.claimed <= b.high + 1e-12 for b in bins)
    assert all(one.high < other.low for one, other in itertools.pairwise(bins))
    assert len(bins) <= 10 and (len(bins) == 1 or min(b.count for b in bins) >= 10)


def test_a_calibrated_score_shows_the_error_that_chance_explains() -> None:
    seen = [edge(outcomes(simulate_bot("stable good", seed=seed), 500)) for seed in range(10)]
    measured = np.mean([e.ece for e in seen if e.ece is not None])
    expected = np.mean([e.ece_expected for e in seen if e.ece_expected is not None])
    assert measured == pytest.approx(expected, rel=0.2)


# --- break-even ----------------------------------------------------------------------------------------------------


def test_a_given_payoff_gives_break_even_without_doubt() -> None:
    assert break_even_interval((), payoff=1.5) == (0.4, 0.4, 0.4)


def test_break_even_is_unknown_without_two_wins_and_two_losses() -> None:
    bot = steady_bot(0.5, seed=1)
    few = [o for o in outcomes(bot, 100) if o.profit_ratio < 0][:20] + [o for o in outcomes(bot, 50)][:0]
    assert all(math.isnan(value) for value in break_even_interval(few))


@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_the_estimated_break_even_covers_the_truth_nine_times_in_ten(spread: float) -> None:
    hits = []
    for seed in range(300):
        bot = steady_bot(0.5, seed=seed, signals=100, payoff=1.5, fee=0.0, spread=spread)
        _, low, high = break_even_interval(outcomes(bot, 100))
        hits.append(low <= 0.4 <= high)
    assert 0.85 <= np.mean(hits) <= 0.95


# --- the whole -----------------------------------------------------------------------------------------------------


def test_too_few_trades_give_counts_and_rates_but_no_verdict() -> None:
    known = edge(outcomes(steady_bot(0.6, seed=2), 12, shadow_every=3))
    assert (known.trades, known.n_real, known.n_shadow) == (12, 8, 4)
    assert known.sentences == ("not known yet (12 of 50 trades)",)
    assert known.ranks is None and known.earns is None and known.auc is None
    assert known.win_rate is not None and known.break_even == pytest.approx(0.5)
    empty = edge(())
    assert empty == Edge(trades=0, trades_min=50, n_real=0, n_shadow=0, sentences=("not known yet (0 of 50 trades)",))


def test_a_score_that_ranks_is_said_to() -> None:
    known = edge(outcomes(simulate_bot("stable good", seed=1), 300))
    assert known.ranks and known.earns
    assert known.auc is not None and known.auc > 0.6
    assert known.sentences[0].startswith("your score ranks outcomes: AUC 0.")
    assert known.sentences[0].endswith(" over 300 trades")
    assert known.sentences[2].startswith("the trades earn their fees: ")
    assert known.brier_skill is not None and known.brier_skill > 0


def test_a_score_that_does_not_rank_is_told_so_and_why_the_threshold_stays() -> None:
    bot = steady_bot(0.45, seed=9, signals=2000)
    known = edge(outcomes(bot, 1000, shadow_every=2))
    assert known.ranks is False and known.earns is False
    assert known.n_shadow == 500
    first = known.sentences[0]
    assert first.startswith("your score does not rank outcomes: AUC 0.")
    assert "over 1000 trades, 500 of them shadow trades" in first
    assert first.endswith("the entry threshold is left alone and the gate works on the stream as a whole")
    assert known.sentences[1].startswith("your score is too sure of itself: it claims 88% wins and gets 4")
    assert known.sentences[2].startswith("the trades do not earn their fees: 4")


def test_a_score_the_wrong_way_round_and_one_that_is_undecided_have_words_of_their_own() -> None:
    bot = simulate_bot("stable good", seed=3)
    upside_down = [
        msgspec.structs.replace(o, entry_probability=1 - (o.entry_probability or 0)) for o in outcomes(bot, 300)
    ]
    assert edge(upside_down).sentences[0].startswith("your score ranks outcomes the wrong way round: AUC 0.")
    undecided = edge(outcomes(steady_bot(0.55, seed=1), 60))
    assert undecided.ranks is False
    assert "has not been shown to rank outcomes" in undecided.sentences[0]


def test_the_share_of_scores_wrongly_said_to_rank_is_that_of_the_interval() -> None:
    said = [bool(edge(outcomes(steady_bot(0.55, seed=seed, signals=200), 200)).ranks) for seed in range(300)]
    assert 0.02 <= np.mean(said) <= 0.08


def test_trades_that_all_came_out_alike_are_no_error() -> None:
    won = [msgspec.structs.replace(o, profit_ratio=0.01) for o in outcomes(steady_bot(0.5, seed=4), 80)]
    known = edge(won)
    assert known.auc is None and known.ranks is None and known.brier_skill is None and known.break_even is None
    assert known.sentences[0] == "whether your score ranks outcomes cannot be told: all of 80 trades came out alike"
    assert "break-even is not known" in known.sentences[2]
    assert known.sentences[1].startswith("your score is too modest")


def test_trades_without_a_score_count_for_the_payoff_only() -> None:
    scored = outcomes(steady_bot(0.5, seed=5), 60)
    nameless = [msgspec.structs.replace(o, entry_probability=None, profit_ratio=3 * o.profit_ratio) for o in scored]
    assert edge([*scored, *nameless]).trades == 60
    assert edge(nameless).trades == 0
    assert edge(nameless).break_even == pytest.approx(0.5)


@given(
    st.lists(
        st.builds(
            Outcome, closed_ms=st.integers(0, 10**12), profit_ratio=st.floats(-1e308, 1e308), exit_kind=st.just("x"),
            shadow=st.booleans(), entry_probability=st.none() | st.floats(allow_infinity=False),
        ),
        max_size=80,
    )
)  # fmt: skip
def test_absurd_outcomes_give_numbers_or_nothing(found: list[Outcome]) -> None:
    known = edge(found, trades_min=5)
    for value in msgspec.structs.astuple(known):
        assert not isinstance(value, float) or math.isfinite(value)
    assert msgspec.json.decode(msgspec.json.encode(known), type=Edge) == known
    assert out_of_sample(found, 0, None, False, 10**12).sentence


# --- overfit, or a change of regime? -------------------------------------------------------------------------------


def verdicts(
    before: int, good: float, bad: float, after: int, *, spread: float = 0.0, bots: int = 200
) -> dict[str, float]:
    """Return the share of each verdict for bots that win with `good` for `before` trades, and with `bad` after."""
    counts: dict[str, int] = {}
    for seed in range(bots):
        rng = np.random.default_rng([before, after, seed])
        won = rng.random(before + after) < np.where(np.arange(before + after) < before, good, bad)
        size = np.exp(spread * rng.standard_normal(before + after) - spread**2 / 2)
        found = [
            Outcome(
                closed_ms=TRAINED_MS + (i + 1) * TEN_A_DAY, profit_ratio=float(0.01 * x if y else -0.01 * x),
                exit_kind="other", shadow=False,
            )
            for i, (y, x) in enumerate(zip(won, size, strict=True))
        ]  # fmt: skip
        verdict = out_of_sample(found, TRAINED_MS, None, False, found[-1].closed_ms).verdict
        counts[verdict] = counts.get(verdict, 0) + 1
    return {verdict: count / bots for verdict, count in counts.items()}


@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_error_rates_on_simulated_bots(spread: float) -> None:
    """What is called by the wrong name; `unknown` is no error, it is an answer."""
    overfit = verdicts(0, 0.6, 0.35, 200, spread=spread)
    changed = verdicts(120, 0.65, 0.35, 80, spread=spread)
    soon = verdicts(40, 0.65, 0.35, 90, spread=spread)
    healthy = verdicts(0, 0.6, 0.58, 150, spread=spread)
    assert overfit.get("regime change", 0) <= 0.04 and overfit.get("healthy", 0) == 0
    assert overfit["overfit"] >= 0.7
    assert changed.get("overfit", 0) <= 0.02 and changed["regime change"] >= 0.7
    assert soon.get("overfit", 0) <= 0.04
    assert healthy.get("overfit", 0) + healthy.get("regime change", 0) <= 0.03


def run(*parts: tuple[int, float], opened: bool = False) -> list[Outcome]:
    """Return trades, ten a day, of parts (count, win rate) that win evenly spread."""
    won = [math.floor((i + 1) * rate) > math.floor(i * rate) for count, rate in parts for i in range(count)]
    return [
        Outcome(
            closed_ms=TRAINED_MS + (i + 1) * TEN_A_DAY, profit_ratio=0.01 if y else -0.01, exit_kind="other",
            shadow=False, opened_ms=TRAINED_MS + i * TEN_A_DAY if opened else None,
        )
        for i, y in enumerate(won)
    ]  # fmt: skip


def test_losses_from_the_first_day_on_are_overfit() -> None:
    found = run((80, 0.3))
    told = out_of_sample(found, TRAINED_MS, None, False, found[-1].closed_ms)
    assert told.verdict == "overfit" and told.since_ms == TRAINED_MS
    assert (told.trades_in, told.trades_out, told.days) == (0, 80, 8.0)
    assert told.sentence == (
        "out of sample since 2025-03-01: the losses begin there (-0.40% a trade over the first 40 trades); overfit, "
        "not a regime change"
    )


def test_losses_after_a_while_are_a_change_of_regime_and_dated() -> None:
    found = run((100, 0.65), (60, 0.25))
    told = out_of_sample(found, TRAINED_MS, None, False, found[-1].closed_ms)
    assert told.verdict == "regime change"
    assert told.since_ms is not None and abs(told.since_ms - found[100].closed_ms) <= DAY_MS
    assert "a regime change, not overfit (the features look as before" in told.sentence
    assert "the features changed as well" in out_of_sample(found, TRAINED_MS, None, True, found[-1].closed_ms).sentence


def test_a_market_that_changed_as_the_training_ended_leaves_it_open() -> None:
    found = run((80, 0.3))
    now_ms = found[-1].closed_ms
    assert out_of_sample(found, TRAINED_MS, TRAINED_MS + DAY_MS, True, now_ms).verdict == "unknown"
    undated = out_of_sample(found, TRAINED_MS, None, True, now_ms)
    assert undated.verdict == "unknown" and "look the same" in undated.sentence
    assert out_of_sample(found, TRAINED_MS, TRAINED_MS + 6 * DAY_MS, True, now_ms).verdict == "overfit"


def test_a_bot_that_earns_is_healthy_and_one_about_even_is_not_judged() -> None:
    good, even = run((100, 0.65)), run((100, 0.5))
    assert out_of_sample(good, TRAINED_MS, None, False, good[-1].closed_ms).verdict == "healthy"
    told = out_of_sample(even, TRAINED_MS, None, False, even[-1].closed_ms)
    assert told.verdict == "unknown" and "than chance would explain" in told.sentence


def test_what_is_missing_is_said() -> None:
    found = run((80, 0.3))
    now_ms = found[-1].closed_ms
    assert "nobody said until when it was trained" in out_of_sample(found, None, None, False, now_ms).sentence
    few = out_of_sample(found[:7], TRAINED_MS, None, False, now_ms)
    assert few.verdict == "unknown" and "7 of 20 trades so far" in few.sentence
    early = out_of_sample(run((40, 0.55), (70, 0.3)), TRAINED_MS, None, False, now_ms)
    assert early.verdict == "unknown" and "do not tell whether from the start" in early.sentence


def test_a_trade_belongs_to_where_it_was_opened() -> None:
    found = run((80, 0.3), opened=True)  # The first was opened at the very end of the training data.
    told = out_of_sample(found, TRAINED_MS, None, False, found[-1].closed_ms)
    assert (told.trades_in, told.trades_out) == (1, 79)
    in_sample = out_of_sample(found, found[-1].closed_ms, None, False, found[-1].closed_ms + DAY_MS)
    assert (in_sample.trades_in, in_sample.trades_out, in_sample.days) == (80, 0, 1.0)


def test_trades_without_a_probability_are_said_to_be_so() -> None:
    bare = [Outcome(closed_ms=i, profit_ratio=0.01, exit_kind="other", shadow=False) for i in range(60)]
    assert edge(bare).sentences == ("not known: none of 60 trades carries the probability it was entered with",)
    some = [*bare, *(msgspec.structs.replace(o, entry_probability=0.9) for o in bare[:12])]
    assert edge(some).sentences == ("not known yet (12 of 50 trades with an entry probability)",)
    assert edge(some[60:]).sentences == ("not known yet (12 of 50 trades)",)
