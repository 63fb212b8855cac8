"""What every store must do. A new one adds its factory to `FACTORIES` and changes nothing else here."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory_store import Medium, MemoryStore
from postgres_server import PostgresServer

from regime.codec import encode
from regime.decision import Decision, Reason, SideDecision, Sides, TradingState
from regime.events import (
    AnyEvent,
    Candle,
    Command,
    Equity,
    ModelPromoted,
    Observation,
    Recalibrated,
    StreamKey,
    Tick,
    Trade,
    source_key,
)
from regime_service.stores import Appended, DeadLetter, Store, StoreFailed, group, offer
from regime_service.stores.opening import open_store
from regime_service.stores.sqlite import SqliteStore

Opener = Callable[[], Store]
"""Opens the store of this test: the first time an empty one, then the same one again."""


def sqlite(folder: Path) -> Opener:
    return lambda: SqliteStore(folder / "store.db")


def postgres(server: PostgresServer) -> Opener:
    return lambda: open_store(server.url)


def memory() -> Opener:
    medium = Medium()
    return lambda: MemoryStore(medium)


FACTORIES: dict[str, Callable[[pytest.FixtureRequest], Opener]] = {
    "sqlite": lambda request: sqlite(request.getfixturevalue("tmp_path")),
    "memory": lambda request: memory(),
    "postgres": lambda request: postgres(request.getfixturevalue("postgres")),
}

KEY = StreamKey("m", "BTC/USDT:USDT", "5m")
OTHER = StreamKey("m", "ETH/USDT:USDT", "5m")

OF_EVERY_KIND: list[AnyEvent] = [
    Observation(model="m", symbol="s", timeframe="5m", ts_ms=0, features={"a": 1.5, "b": None}),
    Candle(symbol="s", timeframe="5m", ts_ms=0, open=1, high=2, low=1, close=2, volume=0),
    Trade(
        model="m", symbol="s", timeframe="5m", trade_id="1", side="long", opened_ms=0, closed_ms=1, entry_price=1.0,
        exit_price=1.0, profit_ratio=0.0,
    ),
    Equity(model="m", ts_ms=0, equity=1.0),
    Tick(model="m", symbol="s", timeframe="5m", ts_ms=0),
    Command(id="1", action="set", ts_ms=0, model="m", state="HALTED", reason="Übung"),
    Recalibrated(model="m", version="1", reference_id="abc"),
    ModelPromoted(model="m", model_version="1", ts_ms=0),
]  # fmt: skip


@pytest.fixture(params=FACTORIES)
def opener(request: pytest.FixtureRequest) -> Iterator[Opener]:
    opened: list[Store] = []
    make = FACTORIES[request.param](request)

    def open_one() -> Store:
        opened.append(make())
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()


def tick(ts_ms: int) -> Tick:
    return Tick(model=KEY.model, symbol=KEY.symbol, timeframe=KEY.timeframe, ts_ms=ts_ms)


def observation(ts_ms: int, value: float = 1.0) -> Observation:
    return Observation(model="m", symbol=KEY.symbol, timeframe="5m", ts_ms=ts_ms, features={"a": value})


def decision(version: int, key: StreamKey = KEY, text: str = "so") -> Decision:
    side = SideDecision(
        state=TradingState.REDUCING, entry=0.8, exit=0.75, size_factor=0.0,
        reasons=[Reason(code="drift", text=text, since_ms=1, value=0.5)],
    )  # fmt: skip
    return Decision(
        model=key.model, symbol=key.symbol, timeframe=key.timeframe, mode="enforce", version=version, as_of_ms=version,
        data_until_ms=None, regime=None, sides=Sides(long=side, short=side), reference_id=None, policy_id="p",
    )  # fmt: skip


def put(store: Store, *events: AnyEvent) -> list[Appended]:
    with group(store):
        return [offer(store, event, encode(event), recorded_ms=7) for event in events]


def put_decisions(store: Store, *decisions: Decision) -> None:
    with group(store):
        for each in decisions:
            store.put_decision(store.last_seq(), each)


# --- events ---


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert (store.last_seq(), list(store.events()), store.latest(), store.failed) == (0, [], {}, None)
    assert store.decisions(KEY) == [] and store.newest_snapshot("f") is None
    assert list(store.verify()) == []


def test_events_of_every_kind_come_back_byte_for_byte_and_are_numbered_from_one(opener: Opener) -> None:
    store = opener()
    assert put(store, *OF_EVERY_KIND) == [Appended(n, "new") for n in range(1, 9)]
    expected = [(n, encode(event)) for n, event in enumerate(OF_EVERY_KIND, 1)]
    assert list(store.events()) == expected
    store.close()
    assert list(opener().events()) == expected


def test_events_are_those_after_one_number_up_to_and_including_the_other(store: Store) -> None:
    put(store, *map(tick, range(10)))
    assert [seq for seq, _ in store.events(3)] == [4, 5, 6, 7, 8, 9, 10]
    assert [seq for seq, _ in store.events(3, 5)] == [4, 5]
    assert list(store.events(5, 5)) == list(store.events(10)) == list(store.events(99)) == []


def test_many_events_come_in_order(store: Store) -> None:
    put(store, *map(tick, range(2345)))
    assert [seq for seq, _ in store.events()] == list(range(1, 2346))
    assert store.last_seq() == 2345


def test_the_time_of_writing_comes_with_an_event_that_is_asked_for_it(store: Store) -> None:
    with group(store):
        for number, event in enumerate(OF_EVERY_KIND):
            assert offer(store, event, encode(event), 1_000 + number).seq == number + 1
    found = list(store.logged())
    assert [(seq, raw) for seq, _, raw in found] == list(store.events())
    assert [at_ms for _, at_ms, _ in found] == [1_000 + number for number in range(len(OF_EVERY_KIND))]
    assert [seq for seq, _, _ in store.logged(2, 4)] == [3, 4]


def test_decisions_of_all_streams_come_in_the_order_they_were_made(store: Store) -> None:
    made = [(1, decision(1)), (1, decision(1, key=OTHER)), (2, decision(2, key=OTHER)), (3, decision(2))]
    for number, event in enumerate(OF_EVERY_KIND[:3], start=1):
        with group(store):
            offer(store, event, encode(event), 0)
            for seq, each in made:
                if seq == number:
                    store.put_decision(seq, each)
    found = list(store.served())
    assert [(seq, each) for _, seq, each in found] == made
    ids = [row for row, _, _ in found]
    assert ids == sorted(set(ids))
    assert [seq for _, seq, _ in store.served(ids[1])] == [2, 3]
    assert list(store.served(ids[-1])) == []


def test_events_may_be_appended_while_they_are_read(store: Store) -> None:
    put(store, *map(tick, range(3)))
    seen = []
    for seq, _ in store.events():
        seen.append(seq)
        if seq == 1:
            put(store, tick(100))
    assert seen[:3] == [1, 2, 3] and store.last_seq() == 4


def test_the_same_content_again_is_a_duplicate_and_other_content_a_conflict(store: Store) -> None:
    put(store, observation(1))
    assert put(store, observation(1), observation(1, 2.0), observation(2)) == [
        Appended(0, "duplicate"),
        Appended(0, "conflict"),
        Appended(2, "new"),
    ]
    assert [raw for _, raw in store.events()] == [encode(observation(1)), encode(observation(2))]


def test_a_duplicate_within_one_group_is_seen(store: Store) -> None:
    answers = put(store, observation(1), observation(1), observation(1, 3.0))
    assert [status for _, status in answers] == ["new", "duplicate", "conflict"]


def test_what_was_expected_is_answered_as_what_was_not(store: Store) -> None:
    put(store, observation(1))
    with pytest.raises(RuntimeError, match="no group"):
        store.expect([observation(1)])
    events = [observation(1), observation(1, 2.0), observation(2), observation(2), observation(2, 3.0)]
    with group(store):
        store.expect(event for event in events)
        store.expect([])
        found = [offer(store, event, encode(event), 7) for event in [*events, observation(3)]]
        assert (store.number_of(observation(2)), store.stored(observation(1))) == (2, encode(observation(1)))
    assert [status for _, status in found] == ["duplicate", "conflict", "new", "duplicate", "conflict", "new"]
    assert put(store, observation(2), observation(4)) == [Appended(0, "duplicate"), Appended(4, "new")]


def test_keys_that_differ_only_behind_a_nul_are_different(store: Store) -> None:
    one = Trade(
        model="m", symbol="s", timeframe="5m", trade_id="1", side="long", opened_ms=0, closed_ms=1, entry_price=1.0,
        exit_price=1.0, profit_ratio=0.0,
    )  # fmt: skip
    assert [status for _, status in put(store, tick(1), tick(2), one)] == ["new"] * 3


def test_the_stored_bytes_can_be_had_for_a_key(store: Store) -> None:
    put(store, observation(1))
    store.begin()
    store.append(observation(2), encode(observation(2)), 7)
    assert store.stored(observation(1, 99.0)) == encode(observation(1))
    assert store.stored(observation(2, 99.0)) == encode(observation(2))
    assert store.stored(observation(3)) is None
    store.rollback()


def test_committed_events_are_found_by_their_keys_and_those_of_an_open_group_are_not(store: Store) -> None:
    put(store, *(observation(i) for i in range(1, 1200)))
    store.begin()
    store.append(observation(5000), encode(observation(5000)), 7)
    wanted = [source_key(observation(i)) for i in (*range(1, 1200, 2), 5000, 6000)]
    assert sorted(store.bodies(wanted)) == sorted(encode(observation(i)) for i in range(1, 1200, 2))
    assert store.bodies([]) == []
    store.rollback()


def test_an_append_without_look_up_is_refused_and_the_store_goes_on(store: Store) -> None:
    put(store, tick(1))
    with pytest.raises(ValueError, match="look_up"), group(store):
        store.append(tick(2), encode(tick(2)), 7)
        store.append(tick(1), encode(tick(1)), 7)
    assert store.failed is None
    assert put(store, tick(2)) == [Appended(2, "new")]


# --- groups ---


def test_a_group_that_is_rolled_back_leaves_nothing_and_its_numbers_are_given_out_again(store: Store) -> None:
    put(store, tick(1))
    store.begin()
    seq = store.append(tick(2), encode(tick(2)), 7)
    store.put_decision(seq, decision(1))
    store.put_reference("r", b"x")
    store.put_snapshot(seq, "f", b"y")
    store.rollback()
    assert store.last_seq() == 1 and store.latest() == {} and store.newest_snapshot("f") is None
    with pytest.raises(KeyError):
        store.reference("r")
    assert put(store, tick(3)) == [Appended(2, "new")]
    put_decisions(store, decision(1, text="another one"))
    assert [d.version for d in store.decisions(KEY)] == [1]


def test_readers_do_not_see_an_open_group(store: Store) -> None:
    store.begin()
    store.append(tick(1), encode(tick(1)), 7)
    store.put_decision(1, decision(1))
    assert (store.last_seq(), list(store.events()), store.decisions(KEY), store.latest()) == (0, [], [], {})
    store.commit()
    assert store.last_seq() == 1 and store.latest() == {KEY: decision(1)}


def test_a_group_that_was_not_committed_is_gone_after_closing(opener: Opener) -> None:
    store = opener()
    put(store, tick(1))
    store.begin()
    store.append(tick(2), encode(tick(2)), 7)
    store.close()
    assert [seq for seq, _ in opener().events()] == [1]


def test_writing_needs_a_group_and_groups_do_not_nest(store: Store) -> None:
    for write in (
        lambda: store.append(tick(1), b"", 7),
        lambda: store.look_up(tick(1), b""),
        lambda: store.put_decision(0, decision(1)),
        lambda: store.put_reference("r", b""),
        lambda: store.put_snapshot(0, "f", b""),
        store.commit,
    ):
        with pytest.raises(RuntimeError, match="no group"):
            write()
    store.rollback()
    store.begin()
    with pytest.raises(RuntimeError, match="already"):
        store.begin()
    store.rollback()


def test_a_closed_store_refuses_in_words(store: Store) -> None:
    store.close()
    store.close()
    for act in (store.begin, store.last_seq, store.latest, lambda: list(store.events()), lambda: store.bodies(["k"])):
        with pytest.raises(StoreFailed, match="closed"):
            act()
    store.rollback()


def test_the_first_reason_is_the_one_that_stays(store: Store) -> None:
    for reason in ("the disk is full", "and then it was closed"):
        store._stop(reason)  # type: ignore[attr-defined]
    assert store.failed == "the disk is full"
    store.close()
    assert store.failed == "the disk is full"


def test_the_epoch_is_a_ulid_and_stays(opener: Opener) -> None:
    store = opener()
    epoch = store.epoch
    assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", epoch)
    store.close()
    assert opener().epoch == epoch


# --- decisions ---


def test_decisions_are_kept_per_stream_and_come_back_in_order(opener: Opener) -> None:
    store = opener()
    put_decisions(store, decision(1), decision(1, OTHER), decision(2), decision(5))
    store.close()
    store = opener()
    assert store.decisions(KEY) == [decision(1), decision(2), decision(5)]
    assert store.decisions(KEY, since_version=1) == [decision(2), decision(5)]
    assert store.decisions(KEY, since_version=1, limit=1) == [decision(2)]
    assert store.decisions(KEY, since_version=5) == store.decisions(StreamKey("m", "no", "5m")) == []
    assert store.latest() == {KEY: decision(5), OTHER: decision(1, OTHER)}


def test_the_very_same_decision_again_changes_nothing(opener: Opener) -> None:
    store = opener()
    put_decisions(store, decision(1), decision(2))
    store.close()
    store = opener()
    put_decisions(store, decision(1), decision(2), decision(3))
    assert [d.version for d in store.decisions(KEY)] == [1, 2, 3]


@pytest.mark.parametrize("wrong", [decision(0), decision(1), decision(2, text="rewritten")])
def test_a_version_that_falls_or_is_rewritten_is_refused(store: Store, wrong: Decision) -> None:
    put_decisions(store, decision(2))
    with pytest.raises(ValueError, match="versions grow"):
        put_decisions(store, wrong)
    assert store.decisions(KEY) == [decision(2)] and store.failed is None


def test_nothing_can_belong_to_an_event_that_is_not_there(store: Store) -> None:
    put(store, tick(1))
    with pytest.raises(ValueError, match="no event 2"), group(store):
        store.put_decision(2, decision(1))
    with pytest.raises(ValueError, match="no event 2"), group(store):
        store.put_snapshot(2, "f", b"")


# --- references and snapshots ---


def test_a_reference_comes_back_and_may_be_put_again(opener: Opener) -> None:
    store, raw = opener(), bytes(range(256)) * 5000
    for _ in range(2):
        with group(store):
            store.put_reference("r1", raw)
            store.put_reference("empty", b"")
    store.close()
    store = opener()
    assert (store.reference("r1"), store.reference("empty")) == (raw, b"")


def test_other_bytes_under_a_known_reference_are_refused(store: Store) -> None:
    with group(store):
        store.put_reference("r1", b"one")
    with pytest.raises(ValueError, match="r1"), group(store):
        store.put_reference("r1", b"two")
    assert store.reference("r1") == b"one"


def test_the_newest_snapshot_of_the_fingerprint_is_found(opener: Opener) -> None:
    store = opener()
    put(store, *map(tick, range(9)))
    with group(store):
        store.put_snapshot(3, "old", b"3")
        store.put_snapshot(5, "new", b"5")
    store.close()
    store = opener()
    assert (store.newest_snapshot("new"), store.newest_snapshot("old")) == ((5, b"5"), (3, b"3"))
    assert store.newest_snapshot("none") is None


def test_three_snapshots_are_kept_and_a_new_fingerprint_is_not_driven_out_by_an_old_one(store: Store) -> None:
    put(store, *map(tick, range(99)))
    for seq in (50, 60, 70, 80):
        with group(store):
            store.put_snapshot(seq, "old", b"%d" % seq)
    with group(store):
        store.put_snapshot(10, "new", b"10")
    assert store.newest_snapshot("new") == (10, b"10") and store.newest_snapshot("old") == (80, b"80")
    with group(store):
        store.put_snapshot(20, "new", b"20")
        store.put_snapshot(30, "new", b"30")
    assert store.newest_snapshot("new") == (30, b"30") and store.newest_snapshot("old") is None


# --- verify, threads ---


def test_verify_walks_everything(store: Store) -> None:
    put(store, *map(tick, range(1200)))
    put_decisions(store, decision(1), decision(2))
    with group(store):
        store.put_reference("r1", b"one")
        store.put_snapshot(7, "f", b"state")
    checked = list(store.verify())
    assert {table: rows for table, rows in checked}.values() and max(rows for _, rows in checked) == 1200
    assert sum({table: rows for table, rows in checked}.values()) == 1200 + 2 + 1 + 1


def test_readers_of_other_threads_see_whole_groups_only(store: Store) -> None:
    stop, wrong = threading.Event(), list[str]()

    def read() -> None:
        seen = 0
        while not stop.is_set():
            last = store.last_seq()
            numbers = [seq for seq, _ in store.events(max(0, last - 5), last)]
            versions = [d.version for d in store.decisions(KEY, limit=1000)]
            if (
                last < seen
                or last % 5
                or len(versions) * 5 < last
                or numbers != list(range(max(1, last - 4), last + 1))
            ):
                wrong.append(f"{seen} {last} {numbers} {versions}")
            seen = last

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for n in range(60):
        with group(store):
            for i in range(5):
                seq, _ = offer(store, tick(n * 5 + i), encode(tick(n * 5 + i)), 7)
            store.put_decision(seq, decision(n + 1))
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == [] and store.last_seq() == 300


def test_a_dead_letter_is_open_until_it_is_closed(opener: Opener) -> None:
    store = opener()
    put(store, tick(1), tick(2), tick(3))
    with group(store):
        letter = store.open_letter(2, KEY, "ValueError: x", 7)
        assert store.number_of(tick(2)) == 2 and store.number_of(tick(9)) == 0
        with pytest.raises(ValueError, match="open dead letter already"):
            store.open_letter(3, KEY, "ValueError: y", 7)
    assert store.dead_letters() == [DeadLetter(letter, KEY, 2, "tick", "ValueError: x", 7, 1, None, "")]
    with group(store):
        store.letter_failed_again(letter, "ValueError: z")
    store.close()
    store = opener()
    assert store.dead_letters()[0][4:7] == ("ValueError: z", 7, 2)
    with group(store):
        with pytest.raises(ValueError, match="no event 9"):
            store.close_letter(letter, 9, "drop")
        store.close_letter(letter, 3, "drop")
        for again in (lambda: store.close_letter(letter, 3, "drop"), lambda: store.letter_failed_again(letter, "e")):
            with pytest.raises(ValueError, match=f"no dead letter {letter} is open"):
                again()
        assert store.open_letter(3, KEY, "ValueError: y", 8) > letter
    assert [found.seq for found in store.dead_letters()] == [3]
    assert [(found.closed_seq, found.how) for found in store.dead_letters(closed=True)] == [(3, "drop"), (None, "")]
    list(store.verify())


def test_a_message_waits_in_the_outbox_until_it_was_sent(opener: Opener) -> None:
    store = opener()
    put(store, tick(1))
    with group(store):
        store.put_message(1, "a", b"first")
        store.put_message(1, "b", b"second")
        store.put_message(1, "a", b"the same key again")
    assert [message[1:] for message in store.messages()] == [("a", b"first"), ("b", b"second")]
    assert len(store.messages(limit=1)) == 1
    with group(store):
        store.message_sent(store.messages()[0].id, 9)
    store.close()
    store = opener()
    assert [message.key for message in store.messages()] == ["b"]
    with group(store):
        store.put_message(1, "a", b"sent already")
    assert [message.key for message in store.messages()] == ["b"]
    list(store.verify())


def test_a_message_of_a_group_that_was_rolled_back_is_never_seen(store: Store) -> None:
    put(store, tick(1))
    store.begin()
    store.put_message(1, "a", b"first")
    store.open_letter(1, KEY, "e", 7)
    store.rollback()
    assert (store.messages(), store.dead_letters()) == ([], [])


# --- starts ---


def test_starts_that_never_came_to_an_end_are_counted_until_one_does(opener: Opener) -> None:
    counts = []
    for end in (False, False, True, False):
        store = opener()
        counts.append(store.unfinished_starts)
        if end:
            with group(store):
                store.started()
            assert store.unfinished_starts == 2, "what it was opened with"
        store.close()
    assert counts == [0, 1, 2, 0]
    assert opener().unfinished_starts == 1


def test_a_start_in_a_group_that_is_rolled_back_is_not_noted(opener: Opener) -> None:
    store = opener()
    store.begin()
    store.started()
    store.rollback()
    store.close()
    assert opener().unfinished_starts == 1


def test_noting_a_start_needs_a_group_and_tidying_does_not(store: Store) -> None:
    with pytest.raises(RuntimeError, match="no group is open"):
        store.started()
    store.tidy()


def test_a_large_group_comes_back_whole_and_in_order(store: Store) -> None:
    """Whatever the number of rows that go into one statement."""
    for count in (1, 7, 8, 63, 64, 65, 200):
        before = store.last_seq()
        events = [tick(before * 1000 + i) for i in range(count)]
        with group(store):
            store.expect(events)
            seqs = [offer(store, event, encode(event), 7).seq for event in events]
            for version, seq in enumerate(seqs, before + 1):
                store.put_decision(seq, decision(version))
        assert [raw for _, raw in store.events(before)] == [encode(event) for event in events]
        assert [d.version for d in store.decisions(KEY, before, 1000)] == list(range(before + 1, before + count + 1))
        with group(store):
            store.expect(events)
            assert {offer(store, event, encode(event), 7).status for event in events} == {"duplicate"}
    assert list(store.verify())


def test_the_same_decision_and_the_same_reference_may_come_twice_in_one_group(store: Store) -> None:
    put(store, tick(1))
    with group(store):
        for _ in range(2):
            store.put_decision(1, decision(1))
            store.put_reference("r", b"sample")
    assert (store.decisions(KEY), store.reference("r")) == ([decision(1)], b"sample")
    with pytest.raises(ValueError, match="known with other content"), group(store):
        store.put_reference("s", b"one")
        store.put_reference("s", b"another")
    with pytest.raises(ValueError, match="does not follow"), group(store):
        store.put_decision(1, decision(2))
        store.put_decision(1, decision(2, text="other"))
    assert store.latest() == {KEY: decision(1)}
