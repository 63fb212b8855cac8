from __future__ import annotations

import msgspec
import pytest

from regime.config import ExitRules, ModelConfig
from regime.events import Ohlcv
from regime.shadow import Book, Closed, Signal, can_follow

TF = 300_000
T0 = 1_762_146_300_000 // TF * TF
MODEL = ModelConfig(fee_ratio=0.0005, exits=ExitRules(take_profit_ratio=0.02, stop_loss_ratio=0.01, max_hold_candles=5))


def candle(open_: float, high: float | None = None, low: float | None = None, close: float | None = None) -> Ohlcv:
    close = open_ if close is None else close
    return Ohlcv(
        open=open_, high=max(open_, close) if high is None else high, low=min(open_, close) if low is None else low,
        close=close, volume=1.0,
    )  # fmt: skip


def signal(ts_ms: int = T0, *, taken: bool | None = None, refused: bool = True) -> Signal:
    return Signal(ts_ms=ts_ms, probability=0.9, taken=taken, refused=refused)


def play(book: Book, *candles: Ohlcv, side: str = "long", model: ModelConfig = MODEL, first: int = 1) -> list[Closed]:
    return [
        closed
        for i, each in enumerate(candles, start=first)
        for closed in book.on_candle(T0 + i * TF, each, side, model, TF)
    ]


def refused(model: ModelConfig = MODEL) -> Book:
    book = Book()
    book.on_candle(T0, candle(100.0), "long", model, TF)
    book.on_signal(signal(), model, TF)
    return book


def test_it_enters_at_the_open_after_the_signal_and_pays_the_fee_twice() -> None:
    (closed,) = play(refused(), candle(101.0), candle(101.0, high=104.0))
    assert closed.kind == "take_profit"
    assert closed.profit_ratio == pytest.approx(0.02 - 0.001)
    assert closed.closed_ms == T0 + 3 * TF
    assert closed.shadow.entry_ms == T0 + TF


@pytest.mark.parametrize(
    ("side", "last", "kind", "profit"),
    [
        ("long", candle(100.0, high=103.0, low=98.0), "stop_loss", -0.01),  # Both in one candle: the stop comes first.
        ("short", candle(100.0, high=103.0, low=97.0), "stop_loss", -0.01),
        ("long", candle(97.0), "stop_loss", -0.03),  # It opens beyond the stop.
        ("short", candle(97.0), "take_profit", 0.03),
        ("short", candle(100.0, low=97.9), "take_profit", 0.02),
        ("long", candle(105.0), "take_profit", 0.05),
    ],
)
def test_exits_inside_a_candle(side: str, last: Ohlcv, kind: str, profit: float) -> None:
    (closed,) = play(refused(), candle(100.0), last, side=side)
    assert closed.kind == kind
    assert closed.profit_ratio == pytest.approx(profit - 0.001)


def test_after_the_longest_hold_it_leaves_at_the_close() -> None:
    closed = play(refused(), *[candle(100.0, close=100.5)] * 5)
    assert [(c.kind, c.closed_ms) for c in closed] == [("max_hold", T0 + 6 * TF)]
    assert closed[0].profit_ratio == pytest.approx(0.005 - 0.001)


def test_the_exit_probability_leaves_at_the_open_of_the_next_candle() -> None:
    model = msgspec.structs.replace(MODEL, exits=ExitRules(exit_probability=0.75))
    book = refused(model)
    assert play(book, candle(100.0), model=model) == []
    book.on_exit_probability(T0 + TF, 0.74, model.exits)
    assert play(book, candle(100.2), model=model, first=2) == []
    book.on_exit_probability(T0 + 2 * TF, 0.75, model.exits)
    (closed,) = play(book, candle(100.4, close=110.0), model=model, first=3)
    assert (closed.kind, closed.profit_ratio) == ("ml_exit", pytest.approx(0.004 - 0.001))


def test_a_bad_tick_does_not_stop_it_out() -> None:
    assert play(refused(), candle(100.0, low=1.0, high=100_000.0)) == []


def test_one_position_at_a_time_unless_the_bot_holds_more() -> None:
    book = refused()
    book.on_signal(signal(T0 + TF), MODEL, TF)
    assert [s.fate for s in book.signals] == ["open", "overlapping"]
    more = msgspec.structs.replace(MODEL, exits=msgspec.structs.replace(MODEL.exits, max_open=2))
    book = refused(more)
    book.on_signal(signal(T0 + TF), more, TF)
    assert [s.fate for s in book.signals] == ["open", "open"]


def test_a_real_position_counts_until_it_is_reported_closed_or_its_time_is_over() -> None:
    book = Book()
    book.on_signal(signal(taken=True, refused=False), MODEL, TF)
    book.on_signal(signal(T0 + TF), MODEL, TF)
    book.on_real_trade()
    book.on_signal(signal(T0 + 2 * TF), MODEL, TF)
    assert [s.fate for s in book.signals] == ["taken", "overlapping", "open"]


def test_what_we_did_not_refuse_is_not_followed() -> None:
    book = Book()
    book.on_signal(signal(refused=False), MODEL, TF)
    book.on_signal(signal(T0 + TF, taken=False, refused=False), MODEL, TF)
    assert [s.fate for s in book.signals] == ["passed", "passed"]
    assert (book.refused, book.shadows) == (0, [])


def test_without_declared_exits_nothing_is_followed() -> None:
    assert not can_follow(ExitRules())
    book = refused(ModelConfig())
    assert (book.signals[0].fate, book.shadows, book.unresolved) == ("unresolved", [], 1)


def test_where_the_next_candle_is_missing_for_long_the_signal_is_given_up() -> None:
    book = refused()
    assert play(book, candle(100.0), first=4) == []
    assert book.signals[0].fate == "open"
    book = refused()
    assert play(book, candle(100.0), first=5) == []
    assert (book.signals[0].fate, book.unresolved, book.shadows) == ("unresolved", 1, [])


def test_the_bots_own_paper_trades_end_ours() -> None:
    book = refused()
    book.on_bot_shadow()
    assert book.shadows == []
    book.on_signal(signal(T0 + TF), MODEL, TF)
    assert book.shadows == []


def test_late_candles_are_ignored_and_open_shadows_are_marked_at_the_newest_close() -> None:
    book = refused()
    assert book.marked("long", MODEL) == []
    play(book, candle(100.0, close=100.9))
    assert book.on_candle(T0, candle(1.0), "long", MODEL, TF) == []
    assert book.marked("long", MODEL) == [pytest.approx(0.009 - 0.001)]
    assert book.marked("short", MODEL) == [pytest.approx(-0.009 - 0.001)]
