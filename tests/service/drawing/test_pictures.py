"""What a picture says is what it was given: places of lines and marks, and what is left out."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from regime.events import SIDES
from regime.outcomes import Outcome, wilson_interval
from regime.reference import Reference
from regime_service.drawing import market, trades
from regime_service.drawing.distance import COLUMN_ROWS, drift, law_of
from regime_service.drawing.shown import Blamed, Drift, History, Span, Worth, blamed, sampled
from regime_service.drawing.svg import LEFT, RIGHT, WIDTH, time_ticks

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def outcomes(profits: list[float], *, shadow: bool = False, since_ms: int = 0) -> list[Outcome]:
    return [
        Outcome(closed_ms=since_ms + (i + 1) * HOUR_MS, profit_ratio=profit, exit_kind="", shadow=shadow)
        for i, profit in enumerate(profits)
    ]


def line(svg: str, name: str) -> list[tuple[float, float]]:
    """The corners of a line that goes straight up, down and to the side, by its class."""
    found = re.search(rf'<path class="{name}" d="([^"]*)"', svg)
    assert found is not None, name
    x = y = 0.0
    corners = []
    for pen, numbers in re.findall(r"([MLHV])([-\d. ]+)", found[1]):
        values = [float(number) for number in numbers.split()]
        x = values[0] if pen in "MLH" else x
        y = values[-1] if pen in "MLV" else y
        corners.append((x, y))
    return corners


# --- win rate against break-even ---


def test_the_win_rate_of_a_side_ends_where_its_last_trades_do() -> None:
    won = [0.02] * 30 + [-0.01] * 20 + [0.02] * 10  # The last 50: 20 + 10 won. The last 10: all of them.
    svg = str(trades.win_rate({"long": outcomes(won), "short": outcomes([0.01] * 9)}))
    top, bottom = 20.0, 170.0

    def at(share: float) -> float:
        return bottom - share * (bottom - top)

    assert line(svg, "many")[-1] == (WIDTH - RIGHT, pytest.approx(at(0.6)))
    assert line(svg, "few")[-1] == (WIDTH - RIGHT, pytest.approx(at(1.0)))
    # Wins of 2 %, losses of 1 %: one in three is enough.
    assert line(svg, "break-even")[-1][1] == pytest.approx(at(1 / 3), abs=0.06)
    low, high = wilson_interval(30, 50, 1.645)
    ys = [y for _, y in line(svg, "band90")]
    assert min(abs(y - at(high)) for y in ys) < 0.06 and min(abs(y - at(low)) for y in ys) < 0.06
    assert "long: 60 trades, 67% won" in svg and "short" not in svg


def test_a_payoff_that_is_configured_is_the_break_even_that_is_drawn() -> None:
    svg = str(trades.win_rate({"long": outcomes([0.02, -0.01] * 10)}, payoff=1.0))
    assert {y for _, y in line(svg, "break-even")} == {95.0}  # One half: the middle from 20 to 170.


def test_with_fewer_than_ten_trades_of_each_side_there_is_no_win_rate() -> None:
    assert trades.win_rate({"long": outcomes([0.01] * 9), "short": []}) is None
    assert trades.win_rate({}) is None


def test_of_very_many_trades_the_last_one_is_drawn_and_the_line_stays_short() -> None:
    profits = [0.01 if i % 2 else -0.01 for i in range(10_000)]
    profits[-50:] = [0.01] * 50
    svg = str(trades.win_rate({"short": outcomes(profits)}))
    assert line(svg, "many")[-1] == (WIDTH - RIGHT, 20.0)
    assert len(svg) < 60_000


# --- what the guard is worth ---


def test_refused_signals_are_in_the_one_line_and_not_in_the_other() -> None:
    taken = outcomes([0.01, 0.02])
    refused = outcomes([-0.05], shadow=True, since_ms=30 * 60_000)
    shown = trades.live_worth({"long": taken, "short": refused})
    assert shown.always == pytest.approx([0.01, -0.04, -0.02]) and shown.guarded == pytest.approx([0.01, 0.01, 0.03])
    svg = str(trades.worth(shown))
    assert "all signals -2.0%, with the guard +3.0%" in svg and svg.count('class="refused"') == 1
    assert line(svg, "guarded")[-1][1] < line(svg, "always")[-1][1], "more is higher up"
    assert line(svg, "guarded")[0] == line(svg, "always")[0] and line(svg, "always")[0][0] == LEFT


def test_before_two_signals_have_ended_there_is_nothing_to_draw() -> None:
    assert trades.worth(trades.live_worth({"long": outcomes([0.1])})) is None
    assert trades.worth(trades.live_worth({})) is None


@pytest.mark.parametrize(("last", "bent"), [(5.0, False), (49.0, True)])
def test_an_account_that_grew_more_than_tenfold_is_drawn_by_its_logarithm(last: float, bent: bool) -> None:
    account = Worth(0, [DAY_MS, 2 * DAY_MS], [0.5, last], [0.2, 0.1], [], compounded=True)
    svg = str(trades.worth(account))
    assert ("×10<" in svg and "×1<" in svg) is bent
    # A plain sum is never bent, however large it is.
    assert "×" not in str(trades.worth(account._replace(compounded=False)))


def test_an_account_that_is_wiped_out_can_be_drawn() -> None:
    assert trades.worth(Worth(0, [DAY_MS, 2 * DAY_MS], [-1.0, -1.0], [0.1, 0.2], [0], compounded=True)) is not None


# --- a detector against its limit ---


def test_the_one_alarm_among_very_many_values_is_drawn() -> None:
    count = 50_000
    values = [1.0] * count
    values[31_234] = 9.0
    times = [i * HOUR_MS for i in range(count)]
    svg = str(market.statistic(times, values, [5.0] * count, (0, times[-1])))
    peak = min(line(svg, "measured"), key=lambda corner: corner[1])
    assert peak[0] == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * 31_234 / count, abs=0.2)
    assert peak[1] < line(svg, "limit")[0][1] and len(svg) < 40_000
    assert str(market.statistic(times, [1.0] * count, [5.0] * count, (0, times[-1]))) != svg


def test_without_a_limit_only_what_was_measured_is_drawn() -> None:
    svg = str(market.statistic([0, HOUR_MS], [1.0, 2.0], [math.nan] * 2, (0, HOUR_MS)))
    assert 'class="limit"' not in svg and 'class="veil"' not in svg and "no limit is known" in svg


def test_no_line_is_drawn_over_hours_that_nobody_saw() -> None:
    times = [*range(0, 100 * HOUR_MS, HOUR_MS), *range(300 * HOUR_MS, 400 * HOUR_MS, HOUR_MS)]
    svg = str(market.statistic(times, [1.0] * 200, [2.0] * 200, (0, times[-1])))
    measured = re.search(r'class="measured" d="([^"]*)"', svg)
    assert measured is not None and measured[1].count("M") == 2


# --- time ---


def test_a_time_of_years_has_few_ticks_and_names_the_years() -> None:
    ticks = time_ticks(1_600_000_000_000, 1_600_000_000_000 + 4 * 365 * DAY_MS)
    assert 2 <= len(ticks) <= 9 and all(re.fullmatch(r"20\d\d-\d\d-\d\d", words) for _, words in ticks)


@pytest.mark.parametrize(("candles", "every"), [(1, 1), (288, 1), (2016, 4), (8640, 18), (105_120, 18)])
def test_a_long_time_is_thinned_out_as_a_month_is(candles: int, every: int) -> None:
    found, opened = sampled(10**12, candles, 300_000)
    assert found == every and opened[-1] == 10**12 - 300_000
    assert set(np.diff(opened).tolist()) <= {every * 300_000}
    assert len(opened) * every >= candles


def test_a_pause_of_a_moment_can_be_seen() -> None:
    spans = {side: [Span(0, 30 * DAY_MS, "ACTIVE", 0.8, 0.75)] for side in SIDES}
    spans["long"].append(Span(30 * DAY_MS, 30 * DAY_MS, "HALTED", 0.8, 0.75))
    svg = str(market.states(History(0, 30 * DAY_MS, [], [], spans, None, "")))
    assert re.search(r'class="band HALTED" x="875" y="4" width="3"', svg)


# --- drift ---


def test_the_start_of_the_change_stands_where_it_was_estimated() -> None:
    shown = Drift(("a", "b"), tuple(i * DAY_MS for i in range(11)), ((0.1,) * 10, (math.nan,) * 10), 2)
    svg = str(market.heat(shown, Blamed({"b": 0}, (5 * DAY_MS, 4 * DAY_MS, 6 * DAY_MS))))
    start = re.search(r'class="start" d="M([\d.]+) 17H([\d.]+)"', svg)
    mark = re.search(r'class="startline" d="M([\d.]+) ', svg)
    assert start is not None and mark is not None
    assert float(mark[1]) == pytest.approx((float(start[1]) + float(start[2])) / 2, abs=0.1)
    assert "● b" in svg and "● a" not in svg and 'class="h0"' in svg


def test_what_the_models_own_probabilities_did_blames_no_feature() -> None:
    change = {"features": ({"name": "probability_long"},), "start_ms": 1, "start_low_ms": 0, "start_high_ms": 2}
    ours = {"features": ({"name": "a", "like": ("b",)},), "start_ms": 5, "start_low_ms": 4, "start_high_ms": 6}
    assert blamed([("scores.calibrated", change), ("calibrated", None)]) == Blamed({}, None)
    found = blamed([("scores.calibrated", change), ("calibrated", ours), ("ks", {**ours, "start_ms": 9})])
    assert found == Blamed({"a": 5, "b": 5}, (5, 4, 6))


def test_a_feature_that_moved_is_on_top_and_far_and_one_that_is_missing_is_not_known() -> None:
    rng = np.random.default_rng(1)
    reference = Reference(["gone", "moved", "still"], rng.normal(size=(3_000, 3)))
    law = law_of(reference, 1)
    assert law is not None
    opened = [i * HOUR_MS for i in range(10 * COLUMN_ROWS)]
    rows = rng.normal(size=(len(opened), 2))
    features = {at: {"gone": None, "moved": a + 3.0 * (i > 90), "still": b} for i, (at, (a, b)) in
                enumerate(zip(opened, rows.tolist(), strict=True))}  # fmt: skip
    found = drift(law, opened, features, HOUR_MS)
    assert found.names == ("moved", "still") and found.features == 3
    assert max(found.values[0][:4]) < 2 < min(found.values[0][-4:]) and max(found.values[1]) < 2


# --- configurations side by side ---


def test_gains_stand_on_both_sides_of_nothing() -> None:
    rows = [trades.Gain("<b>", 0.02, 0.01, 0.03), trades.Gain("none", -0.01, math.nan, math.nan)]
    svg = str(trades.gains(rows))
    zero = re.search(r'class="ideal" d="M([\d.]+) ', svg)
    marks = [float(cx) for cx in re.findall(r'cx="([\d.]+)"', svg)]
    assert zero is not None and marks[1] < float(zero[1]) < marks[0]
    assert svg.count('class="measured"') == 1 and "<b>" not in svg
