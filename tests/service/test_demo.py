"""The pure parts of the demo: the bot's obedience and its books, the figures, the words; and its line to a service."""

from __future__ import annotations

import doctest
import http.server
import io
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from regime.decision import Reason, SideDecision, Sides, TradingState
from regime.errors import OperatorError
from regime.events import Equity, Observation, Probabilities, Side, StreamKey, Taken, Trade
from regime.reference import Reference
from regime.simulate import Scenario, Simulation
from regime_service import demo
from regime_service.demo import bot as bot_file
from regime_service.demo import service as service_file
from regime_service.demo import story as story_file
from regime_service.demo.bot import Answer, Books, Bot, Change, Closed, as_reported, changed, exposure
from regime_service.demo.service import DemoFailed, HttpLine, Service, config_toml, parquet, port_or_any
from regime_service.demo.story import change_lines, meaning, summary_lines, terms, why
from regime_service.demo.summary import Summary, is_stricter, period, summarize
from regime_service.logs import reference_from_bytes
from regime_service.settings import from_toml

STEP_MS = 300_000
START_MS = 1_740_787_200_000
ACTIVE, REDUCING = TradingState.ACTIVE, TradingState.REDUCING


def reason(code: str, text: str = "because") -> Reason:
    return Reason(code=code, text=text, since_ms=0)


def told(
    state: TradingState = ACTIVE, *codes: str, entry: float = 0.8, exit: float = 0.75, size: float | None = None
) -> SideDecision:
    factor = (1.0 if state is ACTIVE else 0.0) if size is None else size
    return SideDecision(state=state, entry=entry, exit=exit, size_factor=factor, reasons=[reason(c) for c in codes])


def answer(version: int, long: SideDecision, short: SideDecision | None = None, *, at_ms: int = 0) -> Answer:
    return Answer(version=version, as_of_ms=at_ms, sides=Sides(long=long, short=short or long))


def trade(signal: int, closed: int, profit: float, side: Side = "long") -> Trade:
    """A trade signalled on the candle of row `signal`, closed at the close of row `closed`."""
    return Trade(
        model="m", symbol="s", timeframe="5m", trade_id=f"{signal} {side}", side=side,
        opened_ms=START_MS + (signal + 1) * STEP_MS, closed_ms=START_MS + (closed + 1) * STEP_MS, entry_price=1.0,
        exit_price=1.0, profit_ratio=profit, leverage=2.0, size_ratio=0.5, signal_ts_ms=START_MS + signal * STEP_MS,
    )  # fmt: skip


def simulation(rows: int, trades: Sequence[Trade], *, probability: float = 0.9) -> Simulation:
    signals = {(t.signal_ts_ms, t.side) for t in trades}

    def taken(ts_ms: int) -> Taken | None:
        acted = {side: True for side in ("long", "short") if (ts_ms, side) in signals}
        return Taken(**acted) if acted else None

    observations = [
        Observation(
            model="m", symbol="s", timeframe="5m", ts_ms=ts_ms, features={"f": 1.0},
            probabilities=Probabilities(long=probability, short=probability), taken=taken(ts_ms),
        )
        for ts_ms in range(START_MS, START_MS + rows * STEP_MS, STEP_MS)
    ]  # fmt: skip
    nothing = np.zeros(rows)
    return Simulation(
        scenario=Scenario(seed=0, candles=rows, model="m", symbol="s"), reference=Reference(["f"], np.ones((1, 1))),
        observations=observations, trades=list(trades), equity=[], break_ms=None, broken=nothing > 0,
        true_win_long=nothing, true_win_short=nothing,
    )  # fmt: skip


class Script:
    """A line whose answers are written down: the answer in force from the reply to the observation of each row."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        self._answers = answers
        self.sent: list[tuple[str, Any]] = []
        self._now = answers[-1]

    def ask(self) -> Answer | None:
        return self._now

    def observation(self, event: Observation) -> Answer | None:
        self.sent.append(("observation", event))
        self._now = self._answers.get((event.ts_ms - START_MS) // STEP_MS, self._now)
        return self._now

    def trades(self, events: Sequence[Trade]) -> Answer | None:
        self.sent.append(("trades", list(events)))
        return self._now

    def equity(self, event: Equity) -> Answer | None:
        self.sent.append(("equity", event))
        return self._now

    def of(self, kind: str) -> list[Any]:
        return [what for name, what in self.sent if name == kind]


def played(script: Script, sim: Simulation) -> Bot:
    bot = Bot(sim, script)
    assert sum(1 for _ in bot.play()) == len(sim.observations)
    return bot


# --- what the bot may do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "probability", "share"),
    [
        (told(), 0.80, 1.0),
        (told(), 0.79, 0.0),
        (told(entry=0.85), 0.84, 0.0),
        (told(size=0.5), 0.9, 0.5),
        (told(REDUCING), 0.99, 0.0),
        (told(TradingState.HALTED), 0.99, 0.0),
        (told(REDUCING, size=1.0), 0.99, 0.0),
        (told(), None, 1.0),
    ],
)
def test_a_bot_enters_only_where_its_side_is_active_and_its_score_is_high_enough(
    side: SideDecision, probability: float | None, share: float
) -> None:
    assert exposure(side, probability) == share


def test_new_reasons_alone_are_no_change() -> None:
    before = answer(1, told(ACTIVE, "drift", entry=0.85))
    assert changed(before, answer(2, told(ACTIVE, "drift", "other", entry=0.85))) == []
    found = changed(before, answer(3, told(ACTIVE, entry=0.8), told(ACTIVE, "drift", entry=0.85), at_ms=7))
    assert [(c.side, c.at_ms, c.before.entry, c.after.entry) for c in found] == [("long", 7, 0.85, 0.8)]


def test_a_trade_that_was_taken_is_reported_with_its_account_and_a_refused_one_as_paper() -> None:
    script = Script({-1: answer(1, told()), 2: answer(2, told(REDUCING))})
    bot = played(script, simulation(8, [trade(1, 4, 0.02), trade(3, 5, -0.01)]))
    first, second = (sent[0] for sent in script.of("trades"))
    assert (first.shadow, first.size_ratio, second.shadow, second.size_ratio) == (False, 0.5, True, 0.5)
    assert [e.equity for e in script.of("equity")] == [10_000.0, 10_200.0]
    assert (bot.books.unguarded, bot.books.guarded) == pytest.approx((10_000 * 1.02 * 0.99, 10_200))


def test_the_observation_says_what_the_bot_did_with_its_signal() -> None:
    script = Script({-1: answer(1, told()), 2: answer(2, told(REDUCING), told())})
    played(script, simulation(6, [trade(1, 4, 0.02), trade(3, 5, 0.0), trade(3, 5, 0.0, "short")]))
    assert [o.taken for o in script.of("observation")] == [
        None, Taken(long=True), None, Taken(long=False, short=True), None, None,
    ]  # fmt: skip


def test_a_bot_decides_by_the_newest_answer_it_holds_not_by_the_one_its_observation_will_bring() -> None:
    script = Script({-1: answer(1, told()), 2: answer(2, told(REDUCING))})
    bot = played(script, simulation(5, [trade(2, 4, 0.01)]))
    assert [closed.exposure for closed in bot.books.closed] == [1.0]


def test_what_came_of_a_trade_does_not_depend_on_answers_after_its_entry() -> None:
    script = Script({-1: answer(1, told(size=0.5)), 2: answer(2, told(REDUCING))})
    bot = played(script, simulation(6, [trade(1, 5, 0.02)]))
    (sent,) = script.of("trades")[0]
    assert (sent.shadow, sent.size_ratio) == (False, 0.25)
    assert bot.books.guarded == pytest.approx(10_100)


def test_one_round_trip_a_candle_and_at_one_instant_trades_then_account_then_observation() -> None:
    script = Script({-1: answer(1, told())})
    played(script, simulation(6, [trade(1, 3, 0.01), trade(1, 3, 0.01, "short"), trade(2, 4, 0.01)]))
    assert [name for name, _ in script.sent] == [
        "equity", "observation", "observation", "observation",
        "trades", "equity", "observation", "trades", "equity", "observation", "observation",
    ]  # fmt: skip
    assert [len(sent) for sent in script.of("trades")] == [2, 1]


def test_a_signal_before_the_first_answer_about_a_candle_is_left_to_nobody() -> None:
    script = Script({-1: answer(1, told())})
    bot = played(script, simulation(4, [trade(0, 2, 0.5)]))
    assert (bot.books.closed, script.of("trades"), bot.books.unguarded) == ([], [], 10_000.0)
    assert script.of("observation")[0].taken == Taken(long=False)


def test_an_answer_older_than_the_one_held_is_passed_over() -> None:
    script = Script({-1: answer(5, told()), 1: answer(4, told(REDUCING))})
    bot = played(script, simulation(5, [trade(2, 3, 0.01)]))
    assert (bot.books.changes, [closed.exposure for closed in bot.books.closed]) == ([], [1.0])


def test_a_trade_of_unknown_size_is_reported_as_a_share_of_one() -> None:
    whole = msgspec.structs.replace(trade(1, 2, 0.1), size_ratio=None)
    assert as_reported(whole, 0.5).size_ratio == 0.5


# --- the figures ----------------------------------------------------------------------------------------------------

BREAK_MS = 100 * STEP_MS


def change(candle: int, side: Side, before: SideDecision, after: SideDecision) -> Change:
    return Change(candle * STEP_MS, side, before, after)


def closed(candle: int, profit: float, share: float) -> Closed:
    return Closed(msgspec.structs.replace(trade(0, 0, profit), closed_ms=candle * STEP_MS), share)


def books(changes: Sequence[Change] = (), trades: Sequence[Closed] = (), first: Answer | None = None) -> Books:
    return Books(10_000.0, first=first or answer(1, told()), changes=list(changes), closed=list(trades))


def summary_of(changes: Sequence[Change] = (), trades: Sequence[Closed] = (), first: Answer | None = None) -> Summary:
    return summarize(books(changes, trades, first), break_ms=BREAK_MS, entry=0.8, exit=0.75)


RAISED = told(ACTIVE, "drift", entry=0.85)
PAUSED = told(REDUCING, "drift", "break-even", entry=0.85)


def test_a_period_compounds_both_accounts_and_counts_what_was_refused() -> None:
    found = period([closed(1, 0.1, 1.0), closed(2, -0.1, 0.0), closed(3, 0.2, 0.0), closed(4, -0.1, 0.5)])
    assert found[:4] == (4, 2, 1, 1)
    assert found.unguarded_ratio == pytest.approx(1.1 * 0.9 * 1.2 * 0.9 - 1)
    assert found.guarded_ratio == pytest.approx(1.1 * 0.95 - 1)


def test_delays_count_from_the_break_to_the_first_stricter_change_and_the_first_pause() -> None:
    found = summary_of(
        [
            change(112, "long", told(), RAISED),
            change(112, "short", told(), RAISED),
            change(150, "short", RAISED, PAUSED),
            change(160, "long", RAISED, PAUSED),
        ],
        [closed(90, 0.01, 1.0), closed(101, -0.1, 1.0), closed(112, -0.1, 1.0), closed(130, -0.1, 0.0)],
    )
    assert (found.warning_ms, found.trades_to_warning) == (12 * STEP_MS, 2)
    assert (found.pause_ms, found.trades_to_pause, list(found.pauses)) == (50 * STEP_MS, 3, ["short", "long"])
    assert (found.healthy.trades, found.after.trades) == (1, 3)
    assert found.avoided_ratio == pytest.approx(0.9 * 0.9 - 0.9**3)
    assert (found.disturbances, found.standing, found.paused_at_break) == ((), (), ())


def test_what_is_known_at_the_moment_of_the_break_is_still_healthy() -> None:
    found = summary_of([change(100, "long", told(), RAISED)], [closed(100, 0.1, 0.0), closed(101, 0.1, 0.0)])
    assert (found.warning, len(found.disturbances), found.standing) == (None, 1, ("drift",))
    assert (found.healthy.trades, found.after.trades) == (1, 1)
    assert found.missed_ratio == pytest.approx(0.1)
    assert found.avoided_ratio == pytest.approx(-0.1)


def test_a_disturbance_lasts_until_both_sides_are_free_again() -> None:
    found = summary_of(
        [
            change(10, "long", told(), RAISED),
            change(11, "short", told(), RAISED),
            change(12, "long", RAISED, PAUSED),
            change(13, "long", PAUSED, told(size=0.5)),
            change(14, "short", RAISED, told()),
            change(15, "long", told(size=0.5), told()),
            change(20, "short", told(), RAISED),
            change(21, "short", RAISED, told()),
        ]
    )
    assert [len(episode) for episode in found.disturbances] == [6, 2]
    assert (found.healthy_pauses, found.standing) == (1, ())


def test_the_warm_up_at_the_beginning_is_no_disturbance() -> None:
    cold = told(REDUCING, "warm-up")
    found = summary_of(
        [change(1, "long", cold, told()), change(1, "short", cold, told()), change(9, "long", told(), RAISED)],
        first=answer(1, cold),
    )
    assert [len(episode) for episode in found.disturbances] == [1]


def test_a_pause_that_stood_already_at_the_break_is_called_luck() -> None:
    found = summary_of([change(99, "long", told(), PAUSED)])
    assert (found.paused_at_break, found.standing, found.pause_ms) == (("long",), ("drift", "break-even"), None)
    text = story_file.joined(summary_lines(found, start_ms=0, end_ms=200 * STEP_MS, what_broke="x"))
    assert "long stood paused already when it broke, by luck" in text
    assert any("by chance" in sentence for sentence in meaning(found))


@pytest.mark.parametrize(
    ("before", "after", "stricter"),
    [
        (told(), RAISED, True),
        (RAISED, told(), False),
        (told(), told(size=0.5), True),
        (told(size=0.5), told(), False),
        (told(), told(exit=0.8), True),
        (RAISED, told(size=0.5), False),
        (told(), PAUSED, True),
        (PAUSED, told(size=0.5), False),
        (PAUSED, told(TradingState.HALTED), True),
    ],
)
def test_stricter_means_more_careful_in_one_way_and_less_in_none(
    before: SideDecision, after: SideDecision, stricter: bool
) -> None:
    assert is_stricter(change(1, "long", before, after)) is stricter


# --- the words ------------------------------------------------------------------------------------------------------


def test_sides_that_change_alike_share_a_line_and_others_do_not() -> None:
    alike = [change(5, "long", told(), RAISED), change(5, "short", told(), RAISED)]
    apart = [change(5, "long", told(), RAISED), change(5, "short", told(), PAUSED)]
    assert [line.text for line in change_lines(alike)] == [
        "1970-01-01 00:25  both   entry 0.80 -> 0.85  drift: because"
    ]
    assert [(line.text[18:23], line.tone) for line in change_lines(apart)] == [("long ", "careful"), ("short", "bad")]


@pytest.mark.parametrize(
    ("before", "after", "words", "because"),
    [
        (told(), RAISED, "entry 0.80 -> 0.85", "drift: because"),
        (RAISED, PAUSED, "ACTIVE -> REDUCING (paused)", "break-even: because"),
        (
            PAUSED,
            told(ACTIVE, "probation", size=0.5),
            "REDUCING (paused) -> ACTIVE, entry 0.85 -> 0.80, size 50%",
            "probation: because",
        ),
        (told(ACTIVE, "probation", size=0.5), told(), "size 100%", "no longer: probation"),
        (told(ACTIVE, "x"), told(ACTIVE, "x", exit=0.8), "exit 0.75 -> 0.80", "x: because"),
    ],
)
def test_a_change_is_told_with_what_is_new_about_it(
    before: SideDecision, after: SideDecision, words: str, because: str
) -> None:
    found = change(1, "long", before, after)
    assert (terms(found), why(found)) == (words, because)


def facts(found: Summary) -> str:
    lines = summary_lines(found, start_ms=0, end_ms=400 * STEP_MS, what_broke="edge gone")
    return story_file.joined(lines)


def test_the_summary_tells_when_it_noticed_and_what_it_saved() -> None:
    text = facts(
        summary_of(
            [
                change(40, "long", told(), RAISED),
                change(50, "long", RAISED, told()),
                change(112, "long", told(), RAISED),
                change(150, "long", RAISED, PAUSED),
            ],
            [closed(90, 0.1, 1.0), closed(95, 0.1, 0.0), closed(110, -0.1, 1.0), closed(160, -0.1, 0.0)],
        )
    )
    assert "break at                  1970-01-01 08:20 (edge gone; nobody was told)" in text
    assert "first warning after       1 h 0 min and 1 closed trade: entry 0.80 -> 0.85 (drift)" in text
    assert "paused after              4 h 10 min and 1 closed trade: long (break-even), short not at all" in text
    assert "losses avoided            9.0 % of the account: -19.0 % without the guard, -10.0 % with it; 1 of 2" in text
    assert "disturbed  1 time in 8 h 20 min and 2 trades; profit missed: 11.0 % of the account (+10.0 % ins" in text


def test_the_summary_does_not_hide_harm_and_failure() -> None:
    found = summary_of(trades=[closed(110, 0.1, 0.0)])
    assert "never: the break was not noticed" in facts(found)
    assert "not within 25 h 0 min and 1 trade)" in facts(found)
    assert "losses avoided            none, 10.0 % of the account lost in addition" in facts(found)
    assert "did not notice" in meaning(found)[0]
    assert any("did harm" in sentence for sentence in meaning(found))


def test_the_summary_tells_healthy_pauses_and_lucky_gains() -> None:
    text = facts(
        summary_of(
            [
                change(40, "long", told(), PAUSED),
                change(50, "long", PAUSED, told()),
                change(120, "long", told(), PAUSED),
                change(120, "short", told(), PAUSED),
            ],
            [closed(45, -0.1, 0.0)],
        )
    )
    assert "1 time in 8 h 20 min and 1 trade, 1 of them a pause; 10.0 % of the account gained by luck" in text
    assert "1 h 40 min and 0 closed trades: both sides (drift, break-even)" in text


def test_later_pauses_tell_their_own_delay() -> None:
    found = summary_of([change(112, "short", told(), PAUSED), change(160, "long", told(), PAUSED)])
    assert "short (drift, break-even), long (drift, break-even) after 5 h 0 min" in facts(found)
    assert "told first (drift, break-even)" in meaning(found)[0]


def test_a_warning_without_a_pause_is_told_as_such() -> None:
    assert "did not come to a pause" in meaning(summary_of([change(112, "long", told(), RAISED)]))[0]


@pytest.mark.parametrize("module", [bot_file, service_file, story_file])
def test_the_examples_in_the_docstrings_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_a_terminal_breaks_sentences_with_a_hanging_indent_and_never_a_command() -> None:
    out = io.StringIO()
    say = demo.Speaker(Console(file=out, force_terminal=True, width=60, color_system=None))
    say(story_file.Line("  name  " + "word " * 14, hang=8))
    say(story_file.Line("    curl " + "word " * 14 + "end", hang=None))
    first, second, third = out.getvalue().splitlines()
    assert (len(first) <= 60, second[:9], third[-3:]) == (True, "        w", "end")


# --- the line -------------------------------------------------------------------------------------------------------

KEY = StreamKey("m", "BTC/USDT:USDT", "5m")
T = {
    "version": 3, "as_of_ms": 9, "model": "m", "regime": None,
    "sides": {
        side: {"state": "ACTIVE", "entry": 0.8, "exit": 0.75, "size_factor": 1.0, "reasons": [], "resume": None}
        for side in ("long", "short")
    },
}  # fmt: skip


class Counter(http.server.BaseHTTPRequestHandler):
    """Answers what the test wrote down, in that order, and remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    replies: list[tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str, str, bytes]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.command, self.path, self.headers.get("Content-Type", ""), body))
        status, headers, reply = self.replies.pop(0)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(reply))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def counter() -> Iterator[tuple[type[Counter], HttpLine]]:
    class Handler(Counter):
        replies = []
        asked = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        line = HttpLine(f"http://127.0.0.1:{server.server_address[1]}", KEY)
        yield Handler, line
        line.close()
        server.shutdown()
        thread.join()


def reply(*thresholds: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps({"accepted": 1, "duplicates": 0, "late": 0, "thresholds": thresholds}).encode()


def test_events_are_sent_without_what_the_address_says_and_the_reply_is_read(
    counter: tuple[type[Counter], HttpLine],
) -> None:
    handler, line = counter
    handler.replies += [reply(T), reply()]
    observation = Observation(model="m", symbol="s", timeframe="5m", ts_ms=0, features={"f": None})
    found = line.observation(observation)
    assert found is not None and (found.version, found.sides.long.state) == (3, ACTIVE)
    assert line.equity(Equity(model="m", ts_ms=1, equity=2.0)) is None
    (_, path, kind, body), (_, other, _, _) = handler.asked
    assert (path, other, kind, line.requests) == ("/v1/observations", "/v1/equity", "application/json", 2)
    assert json.loads(body) == [{"model": "m", "symbol": "s", "timeframe": "5m", "ts_ms": 0, "features": {"f": None}}]


@pytest.mark.parametrize(
    ("answered", "words"),
    [((409, {}, b'{"detail": "another content"}'), "409.*another content"), ((200, {}, b"{}"), "none the contract")],
)
def test_a_refusal_and_an_answer_out_of_contract_end_the_demo_in_words(
    counter: tuple[type[Counter], HttpLine], answered: tuple[int, dict[str, str], bytes], words: str
) -> None:
    handler, line = counter
    handler.replies.append(answered)
    with pytest.raises(DemoFailed, match=words):
        line.ask()


def test_a_service_that_is_gone_ends_the_demo_in_words() -> None:
    with pytest.raises(DemoFailed, match="did not answer"):
        HttpLine(f"http://127.0.0.1:{_unused_port()}", KEY).ask()


def test_a_reference_that_still_calibrates_is_waited_for(counter: tuple[type[Counter], HttpLine]) -> None:
    handler, line = counter
    handler.replies += [(202, {"Location": "/v1/status/1"}, b"{}"), (202, {"Location": "/v1/status/1"}, b"{}"), reply()]
    line.reference(b"body", "v 1", trained_until_ms=5)
    assert [(method, path) for method, path, _, _ in handler.asked] == [
        ("PUT", "/v1/models/m/references/v%201?symbol=BTC%2FUSDT%3AUSDT&timeframe=5m&trained_until_ms=5"),
        ("GET", "/v1/status/1"),
        ("GET", "/v1/status/1"),
    ]


def test_a_reference_that_says_nowhere_where_to_ask_is_given_up(counter: tuple[type[Counter], HttpLine]) -> None:
    handler, line = counter
    handler.replies += [(202, {}, b"{}")]
    with pytest.raises(DemoFailed, match="not in force"):
        line.reference(b"body", "v", trained_until_ms=5)


def test_a_reference_reads_back_as_it_was() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(5, 2))
    values[0, 0] = np.nan
    claims = rng.random(5)
    sample = Reference(
        ["b", "a"], values, ts_ms=START_MS + np.arange(5) * STEP_MS, probability_long=claims, trained_until_ms=7
    )
    read, _ = reference_from_bytes(parquet(sample), "application/vnd.apache.parquet", trained_until_ms=7)
    assert read.reference_id == sample.reference_id


# --- the service ----------------------------------------------------------------------------------------------------


def _unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_port_that_is_taken_gives_way_to_any() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert port_or_any(taken.getsockname()[1]) == 0
    unused = _unused_port()
    assert port_or_any(unused) == unused


def test_the_configuration_is_one_the_service_knows() -> None:
    import tomllib

    settings = from_toml(tomllib.loads(config_toml(Scenario(seed=1, model="m"))), source="demo.toml")
    model = settings.engine.model("m")
    assert (settings.engine.clock, model.entry, model.exits.max_hold_candles) == ("event", 0.8, 96)


def test_a_service_that_cannot_start_ends_the_demo_with_its_last_words(tmp_path: Path) -> None:
    with Service(folder=tmp_path, config="nonsense = 1", store=tmp_path / "s.db", port=0) as service:
        pid = service.pid
        with pytest.raises(DemoFailed, match="ended before it answered"):
            service.await_answer()
        assert "nonsense" in service.last_words()
    assert not Path(f"/proc/{pid}").exists()


def test_a_store_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    store = tmp_path / "mine.db"
    store.write_text("mine")
    with pytest.raises(OperatorError, match="exists"):
        demo.run_demo(Console(quiet=True), seed=1, port=0, once=True, store=str(store))
    assert store.read_text() == "mine"
    with pytest.raises(OperatorError, match="does not exist"):
        demo.run_demo(Console(quiet=True), seed=1, port=0, once=True, store=str(tmp_path / "no" / "s.db"))
