"""The board: one consistent, unchanging picture for every reader."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from regime.decision import Decision, SideDecision, Sides, TradingState
from regime.events import StreamKey
from regime_service.board import Board, StreamView

KEY = StreamKey("m", "BTC/USDT:USDT", "5m")


def view(observations: int) -> StreamView:
    return StreamView(
        evidence=(),
        alarm_rates={},
        outcomes={},
        drawdown_ratio=0.0,
        drawdown_source="",
        observations=observations,
        late=0,
        holes=0,
    )


def decision(version: int, symbol: str = KEY.symbol) -> Decision:
    side = SideDecision(state=TradingState.ACTIVE, entry=0.8, exit=0.75, size_factor=1.0, reasons=[])
    return Decision(
        model="m", symbol=symbol, timeframe="5m", mode="enforce", version=version, as_of_ms=version, data_until_ms=None,
        regime=None, sides=Sides(long=side, short=side), reference_id=None, policy_id="p",
    )  # fmt: skip


def test_a_new_board_is_empty() -> None:
    assert (Board().now.revision, dict(Board().now.decisions), dict(Board().now.views)) == (0, {}, {})


def test_the_newest_decision_of_each_stream_stands() -> None:
    board = Board()
    board.post([decision(1), decision(2), decision(7, "ETH/USDT:USDT")])
    board.post([decision(3)])
    assert {key.symbol: d.version for key, d in board.now.decisions.items()} == {KEY.symbol: 3, "ETH/USDT:USDT": 7}
    assert board.now.revision == 2


def test_what_a_reader_took_does_not_change_under_its_hands() -> None:
    board = Board()
    board.post([decision(1)], {KEY: view(1)})
    taken = board.now
    board.post([decision(2)], {KEY: view(2)})
    assert (taken.decisions[KEY].version, taken.views[KEY]) == (1, view(1))
    assert (board.now.decisions[KEY].version, board.now.views[KEY]) == (2, view(2))


def test_a_reader_cannot_change_the_board() -> None:
    board = Board()
    board.post([decision(1)], {KEY: view(1)})
    mappings: list[Any] = [board.now.decisions, board.now.views]
    for mapping in mappings:
        with pytest.raises(TypeError):
            mapping[KEY] = None


def test_a_lower_version_is_passed_over_and_counted() -> None:
    board = Board()
    board.post([decision(5)])
    board.post([decision(4)])
    assert board.now.decisions[KEY].version == 5
    assert board.counters() == {("version_fell",): 1}


def test_views_that_are_not_named_stay() -> None:
    board = Board()
    board.post([], {KEY: view(1)})
    board.post([decision(1)])
    assert board.now.views[KEY] == view(1)


def test_counters_have_a_name_and_labels() -> None:
    board = Board()
    board.count("events", "observation")
    board.count("events", "observation", by=3)
    board.count("events", "trade")
    copy = board.counters()
    copy.clear()
    assert board.counters() == {("events", "observation"): 4, ("events", "trade"): 1}


def test_posts_and_counts_of_many_threads_all_arrive() -> None:
    board = Board()

    def work(number: int) -> None:
        for version in range(1, 101):
            board.post([decision(version, f"S{number}")])
            board.count("posts")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert board.now.revision == 800
    assert {d.version for d in board.now.decisions.values()} == {100} and len(board.now.decisions) == 8
    assert board.counters() == {("posts",): 800}


def test_a_listener_hears_what_was_put_up_after_it_stands_and_not_what_was_passed_over() -> None:
    board = Board()
    heard: list[tuple[list[StreamKey], int]] = []
    board.listen(lambda keys: heard.append((keys, board.now.decisions[KEY].version)))
    board.post([decision(2)])
    board.post([decision(1)])
    board.post([decision(3), decision(1, "ETH/USDT:USDT")])
    other = StreamKey("m", "ETH/USDT:USDT", "5m")
    assert heard == [([KEY], 2), ([], 2), ([KEY, other], 3)]
