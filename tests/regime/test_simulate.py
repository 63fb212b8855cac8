"""The simulated market keeps its promises: repeatable, causal, and with the edge and the break that it says it has."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from regime import codec
from regime.events import AnyEvent, Equity, Observation, Trade, merge_order, source_key
from regime.simulate import BreakKind, Scenario, Simulation, net_profit_ratio, simulate
from regime.simulate_market import Candles, indicators, make_market, true_win_probability

STEP_MS = 300_000
SHORT = Scenario(seed=3, reference_candles=600, candles=900, break_at=300)
KINDS: tuple[BreakKind, ...] = get_args(BreakKind)
SEEDS = range(2_000, 2_020)


def encoded(events: list[AnyEvent]) -> list[bytes]:
    return [codec.encode(event) for event in events]


def feature_table(simulation: Simulation) -> np.ndarray:
    names = simulation.reference.names
    return np.array([[o.features[name] for name in names] for o in simulation.observations], dtype=np.float64)


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    grid = np.concatenate([a, b])
    share_a = np.searchsorted(np.sort(a), grid, side="right") / len(a)
    share_b = np.searchsorted(np.sort(b), grid, side="right") / len(b)
    return float(np.abs(share_a - share_b).max())


# --- the same scenario, the same bytes -----------------------------------------------------------------------------


def test_same_scenario_gives_the_same_bytes():
    first, second = simulate(SHORT), simulate(SHORT)
    assert encoded(first.events()) == encoded(second.events())
    assert first.reference.to_bytes() == second.reference.to_bytes()


def test_other_seed_is_another_market():
    other = simulate(replace(SHORT, seed=4))
    assert other.observations[0] != simulate(SHORT).observations[0]


@pytest.mark.parametrize("kind", KINDS)
def test_longer_scenario_begins_with_the_shorter_one(kind):
    short = simulate(replace(SHORT, break_kind=kind))
    long = simulate(replace(SHORT, break_kind=kind, candles=1_337))
    assert long.reference.to_bytes() == short.reference.to_bytes()
    assert encoded([*long.observations[:900]]) == encoded([*short.observations])
    assert encoded([*long.equity[: len(short.equity)]]) == encoded([*short.equity])
    assert encoded([*long.trades[: len(short.trades)]]) == encoded([*short.trades])
    # What the longer one has more of was still open when the shorter one ended.
    end_ms = SHORT.start_ms + SHORT.candles * STEP_MS
    assert all(trade.closed_ms >= end_ms for trade in long.trades[len(short.trades) :])
    np.testing.assert_array_equal(long.true_win_long[:900], short.true_win_long)


def test_healthy_and_broken_market_are_the_same_until_the_break():
    healthy, broken = simulate(replace(SHORT, break_at=None)), simulate(SHORT)
    assert healthy.reference.reference_id == broken.reference.reference_id
    assert healthy.observations[:300] == broken.observations[:300]
    assert healthy.observations[300] != broken.observations[300]


# --- only the past -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> Candles:
    return make_market(seed=5, candles=1_500, first_ms=SHORT.start_ms, step_ms=STEP_MS).candles


@pytest.mark.parametrize("length", [1, 5, 96, 97, 288, 289, 1_003, 1_499])
def test_indicators_of_a_truncated_table_are_the_same_to_the_last_bit(table, length):
    names, whole = indicators(table)
    names_cut, cut = indicators(table.cut(0, length))
    assert names_cut == names
    np.testing.assert_array_equal(cut, whole[:length])


def test_indicators_do_not_change_when_later_candles_do(table):
    altered = table.cut(0, 1_500)
    for column in (altered.open, altered.high, altered.low, altered.close, altered.volume):
        column[700:] *= 3.0
    before, after = indicators(table)[1], indicators(altered)[1]
    np.testing.assert_array_equal(after[:700], before[:700])
    assert not np.array_equal(after[700], before[700])


def test_indicators_agree_with_their_plain_definitions(table):
    names, values = indicators(table)
    at = {name: values[:, i] for i, name in enumerate(names)}
    t, w = 1_200, 24
    log_close, past = np.log(table.close), slice(t - w + 1, t + 1)
    steps = np.diff(log_close)[t - w : t]
    assert at["momentum_24"][t] == pytest.approx(log_close[t] - log_close[t - w], abs=1e-12)
    assert at["volatility_24"][t] == pytest.approx(steps.std(), rel=1e-6)
    assert at["rsi_24"][t] == pytest.approx(100 * steps[steps > 0].sum() / np.abs(steps).sum(), rel=1e-9)
    assert at["price_z_24"][t] == pytest.approx(
        (log_close[t] - log_close[past].mean()) / log_close[past].std(), rel=1e-6
    )
    lowest, highest = table.low[past].min(), table.high[past].max()
    assert at["band_position_24"][t] == pytest.approx((table.close[t] - lowest) / (highest - lowest), rel=1e-12)
    assert at["volume_ratio_24"][t] == pytest.approx(table.volume[t] / table.volume[past].mean(), rel=1e-9)


# --- well-formed ---------------------------------------------------------------------------------------------------


def test_reference_has_no_gap_and_the_columns_that_were_promised():
    reference = simulate(Scenario(seed=3, candles=1)).reference
    assert reference.rows == 25_920  # 90 days of five minutes
    assert len(reference.names) == 66
    assert not reference.missing_share().any()
    assert [name for name, dead in zip(reference.names, reference.dead(), strict=True) if dead] == [
        "contract_size",
        "funding_flag",
    ]
    binary = [n for n, column in zip(reference.names, reference.values.T, strict=True) if set(column) == {0.0, 1.0}]
    assert binary == ["above_ema_200", "new_high_96", "volume_spike", "weekend"]
    assert reference.trained_until_ms == SHORT.start_ms
    assert reference.ts_ms is not None
    assert reference.ts_ms[-1] == SHORT.start_ms - STEP_MS
    assert reference.probability_long is not None
    assert reference.probability_short is not None


def test_events_satisfy_the_contract_of_the_codec():
    simulation = simulate(SHORT)
    events = simulation.events()
    assert all(codec.decode(codec.encode(event)) == event for event in events)
    assert not [error for event in events for error in codec.check(event)]
    assert np.isfinite(feature_table(simulation)).all()
    assert np.isfinite([event.equity for event in simulation.equity]).all()


def test_events_are_in_merge_order_and_each_has_its_own_key():
    simulation = simulate(SHORT)
    events = simulation.events()
    assert len(events) == len(simulation.observations) + len(simulation.trades) + len(simulation.equity)
    keys = [merge_order(event) for event in events]
    assert keys == sorted(keys)
    assert len({source_key(event) for event in events}) == len(events)


def test_observations_are_one_a_candle_and_open_near_the_close_before():
    observations = simulate(SHORT).observations
    assert [o.ts_ms for o in observations] == [SHORT.start_ms + i * STEP_MS for i in range(900)]
    candles = [o.candle for o in observations if o.candle is not None]
    assert len(candles) == 900
    gaps = [after.open / before.close - 1 for before, after in pairwise(candles)]
    assert 0 < np.std(gaps) < 0.0005


def test_break_is_where_it_was_asked_for():
    simulation = simulate(SHORT)
    assert simulation.break_ms == SHORT.start_ms + 300 * STEP_MS
    assert simulation.broken.tolist() == [False] * 300 + [True] * 600
    for never in (None, 900):
        healthy = simulate(replace(SHORT, break_at=never))
        assert healthy.break_ms is None
        assert not healthy.broken.any()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"candles": 0}, "at least 1"),
        ({"reference_candles": 0}, "at least 1"),
        ({"break_at": -1}, "break_at"),
        ({"start_ms": 1_740_787_200_001}, "multiple of 5m"),
        ({"start_ms": 300_000}, "1970"),
        ({"edge_after": 1.5}, "edge_after"),
        ({"timeframe": "5x"}, "unknown timeframe"),
    ],
)
def test_nonsense_is_refused_in_words(wrong, word):
    with pytest.raises(ValueError, match=word):
        replace(SHORT, **wrong)


@pytest.mark.parametrize("timeframe", ["1m", "1h", "1d"])
def test_other_timeframes_work(timeframe):
    simulation = simulate(Scenario(seed=1, timeframe=timeframe, reference_candles=400, candles=200))
    assert len(simulation.observations) == 200
    assert simulation.equity[0].ts_ms == simulation.scenario.start_ms
    assert len(simulation.equity) == 1 + (200 if timeframe != "1m" else 200 // 60)


# --- the bot keeps its rules ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["healthy", *KINDS])
def live(request) -> Simulation:
    if request.param == "healthy":
        return simulate(Scenario(seed=11, hold_max=30))
    return simulate(Scenario(seed=11, break_at=500, break_kind=request.param, hold_max=30))


def test_profit_is_what_the_prices_and_fees_say(live):
    fee = live.scenario.fee_ratio
    for trade in live.trades:
        paid, got = trade.entry_price * (1 + fee), trade.exit_price * (1 - fee)
        if trade.side == "short":
            got, back = trade.entry_price * (1 - fee), trade.exit_price * (1 + fee)
            assert trade.profit_ratio == pytest.approx((got - back) / got, abs=1e-12)
        else:
            assert trade.profit_ratio == pytest.approx((got - paid) / paid, abs=1e-12)


def test_fees_make_a_trade_at_one_price_a_loss():
    for side in ("long", "short"):
        assert net_profit_ratio(side, entry=100.0, exit=100.0, fee_ratio=0.0005) == pytest.approx(-0.001, abs=2e-6)


def test_entries_are_decided_at_the_threshold_and_filled_at_the_next_open(live):
    by_ms = {o.ts_ms: o for o in live.observations}
    for trade in live.trades:
        signal = by_ms[trade.signal_ts_ms]
        assert trade.entry_probability == getattr(signal.probabilities, trade.side) >= 0.80
        assert getattr(signal.probabilities, f"exit_{trade.side}") < 0.75
        assert getattr(signal.taken, trade.side) is True
        assert trade.opened_ms == trade.signal_ts_ms + STEP_MS
        assert trade.entry_price == by_ms[trade.opened_ms].candle.open


def test_taken_names_every_signal_and_only_signals(live):
    for observation in live.observations:
        for side in ("long", "short"):
            signalled = getattr(observation.probabilities, side) >= 0.80
            assert (getattr(observation.taken, side, None) is not None) == signalled
    acted = sum(getattr(o.taken, side, None) is True for o in live.observations for side in ("long", "short"))
    assert 0 <= acted - len(live.trades) <= 2, "each is a trade, but for one open position a side at the end"


def test_positions_of_one_side_do_not_overlap(live):
    for side in ("long", "short"):
        times = [(t.opened_ms, t.closed_ms) for t in live.trades if t.side == side]
        assert all(closed <= opened for (_, closed), (opened, _) in pairwise(times))


def test_exits_follow_the_rules(live):
    scenario, by_ms = live.scenario, {o.ts_ms: o for o in live.observations}
    for trade in live.trades:
        towards = 1 if trade.side == "long" else -1
        stop = trade.entry_price * (1 - towards * scenario.stop_loss_ratio)
        target = trade.entry_price * (1 + towards * scenario.take_profit_ratio)
        in_candle = trade.exit_reason in ("stop_loss", "take_profit")
        last_ms = trade.closed_ms - STEP_MS  # the candle in which, or at whose close, it was decided
        survived_until = last_ms if in_candle else last_ms + STEP_MS
        for ts_ms in range(trade.opened_ms, survived_until, STEP_MS):
            candle = by_ms[ts_ms].candle
            worst, best = (candle.low, candle.high) if trade.side == "long" else (candle.high, candle.low)
            assert towards * worst > towards * stop
            assert towards * best < towards * target
        for ts_ms in range(trade.opened_ms, last_ms, STEP_MS):
            assert getattr(by_ms[ts_ms].probabilities, f"exit_{trade.side}") < 0.75
        held = (trade.closed_ms - trade.opened_ms) // STEP_MS
        decided = by_ms[last_ms]
        exit_probability = getattr(decided.probabilities, f"exit_{trade.side}")
        match trade.exit_reason:
            case "ml_exit":
                assert exit_probability >= 0.75
                assert trade.exit_price == by_ms[trade.closed_ms].candle.open
            case "max_hold":
                assert held == scenario.hold_max
                assert exit_probability < 0.75
                assert trade.exit_price == by_ms[trade.closed_ms].candle.open
            case "stop_loss":
                assert towards * trade.exit_price <= towards * stop
                assert decided.candle.low <= trade.exit_price <= decided.candle.high
            case "take_profit":
                assert towards * trade.exit_price >= towards * target
                assert decided.candle.low <= trade.exit_price <= decided.candle.high
            case other:
                pytest.fail(f"unknown exit reason {other}")


def test_every_way_out_is_taken_by_some_trade():
    trades = simulate(Scenario(seed=11, break_at=500, hold_max=30)).trades
    assert {trade.exit_reason for trade in trades} == {"ml_exit", "max_hold", "stop_loss", "take_profit"}


def test_equity_is_hourly_and_the_closed_trades_explain_it_when_nothing_is_open(live):
    scenario = live.scenario
    assert live.equity[0] == Equity(model=scenario.model, ts_ms=scenario.start_ms, equity=10_000.0)
    assert [e.ts_ms for e in live.equity] == [scenario.start_ms + i * 3_600_000 for i in range(len(live.equity))]
    opened = [o.ts_ms + STEP_MS for o in live.observations for s in ("long", "short") if getattr(o.taken, s, None)]
    moves = sorted(
        [(t.closed_ms, _moment(t), t) for t in live.trades] + [(t.opened_ms, ENTRY, t) for t in live.trades],
        key=lambda move: move[:2],
    )
    flat = 0
    for event in live.equity[1:]:
        # An order that is filled at this very moment belongs to the candle after it.
        known = [move for move in moves if move[0] < event.ts_ms or move[:2] == (event.ts_ms, IN_CANDLE)]
        if sum(ms < event.ts_ms for ms in opened) != sum(moment != ENTRY for _, moment, _ in known):
            continue
        balance, notional = 10_000.0, {}
        for _, moment, trade in known:
            if moment == ENTRY:
                notional[trade.trade_id] = balance * trade.size_ratio * trade.leverage
            else:
                balance += notional[trade.trade_id] * trade.profit_ratio
        assert event.equity == pytest.approx(balance, abs=1e-3)
        flat += 1
    assert flat > 5


IN_CANDLE, AT_OPEN, ENTRY = 0, 1, 2
"""Order at one instant: stops and targets of the candle that just closed, exits at the new open, entries."""


def _moment(trade: Trade) -> int:
    return AT_OPEN if trade.exit_reason in ("ml_exit", "max_hold") else IN_CANDLE


# --- the planted truth ---------------------------------------------------------------------------------------------


def test_true_win_probability_comes_true():
    said, won = [], []
    for seed in SEEDS:
        simulation = simulate(Scenario(seed=seed, reference_candles=1))
        close = np.array([o.candle.close for o in simulation.observations if o.candle is not None])
        fee = simulation.scenario.fee_ratio
        gain = close[24:] / close[:-24]
        said += [simulation.true_win_long[:-24], simulation.true_win_short[:-24]]
        won += [gain > (1 + fee) / (1 - fee), 1 / gain > (1 + fee) / (1 - fee)]
    chance, came = np.concatenate(said), np.concatenate(won)
    edges = np.quantile(chance, np.linspace(0, 1, 6))
    for low, high in pairwise(edges):
        rows = (chance >= low) & (chance <= high)
        assert came[rows].mean() == pytest.approx(chance[rows].mean(), abs=0.03)


def test_true_win_probability_has_no_view_without_pressure_and_trend():
    market = make_market(seed=1, candles=50, first_ms=SHORT.start_ms, step_ms=STEP_MS)
    neutral = replace(market, pressure=np.zeros(50), trend=np.zeros(50))
    long, short = true_win_probability(neutral, step_ms=STEP_MS, horizon=24, fee_ratio=0.0)
    np.testing.assert_allclose(long, 0.5)
    np.testing.assert_allclose(short, 0.5)
    long, short = true_win_probability(neutral, step_ms=STEP_MS, horizon=24, fee_ratio=0.0005)
    np.testing.assert_array_equal(long, short)
    assert (long < 0.5).all()


class Account:
    """What a bot made over many seeds."""

    def __init__(self, **options: object) -> None:
        runs = [simulate(replace(Scenario(seed=seed), **options)) for seed in SEEDS]  # type: ignore[arg-type]
        profits = [[trade.profit_ratio for trade in run.trades] for run in runs]
        self.win_rates = np.array([np.mean(np.array(p) > 0) for p in profits])
        self.mean_profits = np.array([np.mean(p) for p in profits])
        self.trades_a_day = np.array([len(p) / 10 for p in profits])
        self.claimed = np.mean([t.entry_probability for run in runs for t in run.trades])
        self.ml_exit_rate = np.mean([t.exit_reason == "ml_exit" for run in runs for t in run.trades])
        curves = [np.array([e.equity for e in run.equity]) for run in runs]
        self.returns = np.array([curve[-1] / curve[0] - 1 for curve in curves])
        self.drawdowns = [1 - curve / np.maximum.accumulate(curve) for curve in curves]
        self.shift = np.mean([_shift_of(run) for run in runs[:4]], axis=0)
        self.names = runs[0].reference.names

    def moved(self, name: str) -> float:
        return float(self.shift[self.names.index(name)])


def _shift_of(run: Simulation) -> list[float]:
    return [kolmogorov_smirnov(a, b) for a, b in zip(feature_table(run).T, run.reference.values.T[:, ::3], strict=True)]


@pytest.fixture(scope="module")
def healthy() -> Account:
    return Account()


@pytest.fixture(scope="module")
def broken() -> dict[str, Account]:
    return {kind: Account(break_at=0, break_kind=kind) for kind in KINDS}


def test_healthy_bot_earns_its_fees(healthy):
    assert 0.60 <= healthy.win_rates.mean() <= 0.70
    assert healthy.win_rates.min() > 0.5
    assert healthy.returns.min() > 0.05
    assert 10 <= healthy.trades_a_day.mean() <= 20
    assert max(drawdown.max() for drawdown in healthy.drawdowns) < 0.10
    assert healthy.ml_exit_rate > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["volatility", "trend", "edge-only"])
def test_bot_without_its_edge_loses(broken, kind):
    account = broken[kind]
    assert 0.30 <= account.win_rates.mean() <= 0.40
    assert account.win_rates.max() < 0.5
    assert account.returns.max() < -0.10
    first_days = [int(np.argmax(drawdown > 0.10)) / 24 for drawdown in account.drawdowns]
    assert all(drawdown.max() > 0.10 for drawdown in account.drawdowns)
    assert np.mean(first_days) < 4


@pytest.mark.slow
def test_bot_whose_features_alone_moved_still_earns(broken):
    assert broken["features-only"].win_rates.mean() > 0.60
    assert broken["features-only"].returns.min() > 0.05


@pytest.mark.slow
def test_model_claims_as_much_after_the_break_as_before(healthy, broken):
    assert 0.84 < healthy.claimed < 0.88
    for account in broken.values():
        assert healthy.claimed - 0.01 < account.claimed < 0.90


@pytest.mark.slow
def test_volatility_break_moves_the_features_of_size(healthy, broken):
    for kind in ("volatility", "features-only"):
        for name in ("volatility_24", "range_24", "volatility_288"):
            assert broken[kind].moved(name) > 0.5
            assert healthy.moved(name) < 0.3
        assert broken[kind].moved("wick_balance_24") < 0.15


@pytest.mark.slow
def test_trend_break_moves_the_features_of_direction(healthy, broken):
    for name in ("momentum_288", "ema_distance_200"):
        assert broken["trend"].moved(name) > 0.4
        assert broken["trend"].moved(name) > healthy.moved(name) + 0.15
    assert abs(broken["trend"].moved("volatility_24") - healthy.moved("volatility_24")) < 0.05


@pytest.mark.slow
def test_break_of_the_edge_alone_moves_no_feature(healthy, broken):
    assert np.abs(broken["edge-only"].shift - healthy.shift).max() < 0.08
    assert broken["edge-only"].shift.mean() == pytest.approx(healthy.shift.mean(), abs=0.015)


def test_observation_of_a_broken_market_says_nothing_of_the_break():
    observation = simulate(SHORT).observations[500]
    assert isinstance(observation, Observation)
    assert not {"regime", "break", "true_win_long", "pressure", "shown"} & observation.features.keys()
