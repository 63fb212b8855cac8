"""The short form of `make fuzz`, and faults planted in the service that the same harness must find."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import mutation
from mutation import campaign, same
from mutator import Mutator, values
from target import HOST, JSON, Asked, Target, post

from regime import codec
from regime.errors import FieldError
from regime.events import Equity, Event, Observation
from regime_service import keys
from regime_service.board import Board
from regime_service.ports import Receipt

PLANTED = 6_000
"""Requests within which a planted fault must have been found."""
RATE = {"clock": "wall"}
LOCKED = {"clock": "wall", "locked": True}


@pytest.mark.slow
def test_no_request_that_is_almost_right_breaks_anything() -> None:
    tally = campaign(7, 20_000, ram=True)
    assert not tally.found, "\n".join(map(str, tally.found))
    assert tally.counts["requests"] == 20_000
    # The requests are not so broken that they prove nothing, and not so whole.
    assert tally.statuses[200] > 2_000
    assert tally.counts["events stored"] > 500
    assert {0, 200, 400, 403, 404, 405, 409, 413, 415, 422, 503} <= set(tally.statuses)
    assert tally.statuses[503] == tally.counts["503 of a full queue, made on purpose"]
    assert tally.counts["healthy answers compared"] >= 20


def found(wrap: Callable[[Target], None] = lambda target: None, variant: dict[str, Any] = RATE) -> str:
    tally = campaign(3, PLANTED, ram=True, variants=[variant], wrap=wrap, enough=1)
    return "\n".join(finding.what for finding in tally.found)


def test_a_value_that_makes_a_handler_raise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = codec.check

    def check(event: Event) -> list[FieldError]:
        if isinstance(event, Equity) and event.equity < 0:
            raise ZeroDivisionError
        return usual(event)

    monkeypatch.setattr(codec, "check", check)
    assert "status 503" in found()


def test_an_error_that_repeats_the_body_is_found() -> None:
    def echo(target: Target) -> None:
        inner = target.app

        async def app(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
            body, refused = b"", False

            async def heard() -> Any:
                nonlocal body
                message = await receive()
                body += message.get("body", b"")
                return message

            async def repeat(message: Any) -> None:
                nonlocal refused
                if message["type"] == "http.response.start":
                    refused = message["status"] == 422
                elif refused:
                    told = msgspec.json.decode(message["body"])
                    told["detail"] += repr(body)
                    message = {**message, "body": msgspec.json.encode(told)}
                await send(message)

            await inner(scope, heard, repeat)

        target.app = app

    assert "a refusal repeats a key" in found(echo, LOCKED)


def test_a_key_that_is_cut_short_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_ANY_OF_TOKEN", re.compile(r"rgk_([a-z2-7]{8})_[A-Za-z0-9_-]{43}"))
    assert "a refusal repeats a key" in found(variant=LOCKED)


def test_an_exception_that_leaves_the_application_is_found() -> None:
    def plant(target: Target) -> None:
        inner = target.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if b"%00" in scope["query_string"]:
                raise RuntimeError("planted")
            await inner(scope, receive, send)

        target.app = app

    assert "the application let out" in found(plant)


def test_an_event_that_is_acknowledged_and_not_stored_is_found() -> None:
    def plant(target: Target) -> None:
        usual, service = target.service.runner.ingest, target.service.runner

        async def ingest(events: Any, **more: Any) -> Receipt:
            if isinstance(events[0], Observation) and len(events) == 1 and events[0].ts_ms % 7_000 == 0:
                return Receipt(1, 0, 0, 0, (), ())
            return await usual(events, **more)

        service.ingest = ingest  # type: ignore[method-assign]

    said = found(plant)
    assert "1 acknowledged, nothing stored" in said


def test_a_refused_request_that_is_stored_all_the_same_is_found() -> None:
    def plant(target: Target) -> None:
        inner, made = target.app, 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def behind_the_back(message: Any) -> None:
                nonlocal made
                if message.get("status") == 422 and made < 5:
                    made += 1
                    await target.service.ingest([Equity(model="x", ts_ms=target.clock.ms - made, equity=1.0)])
                await send(message)

            await inner(scope, receive, behind_the_back)

        target.app = app

    assert "a refused request stored" in found(plant)


def test_an_answer_that_is_older_than_the_events_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(target: Target) -> None:
        usual = Board.post
        monkeypatch.setattr(
            Board,
            "post",
            lambda self, decisions, views=None: usual(self, [d for d in decisions if d.version % 3], views),
        )

    said = found(plant, {"clock": "wall", "stale_after": 1})
    assert "the healthy stream was told" in said or "a version fell" in said


# --- the parts ---


def test_a_seed_makes_the_same_requests() -> None:
    asked = post("/v1/equity", {"model": "m", "ts_ms": 1, "equity": 1.0})
    first, second, other = (
        [mutator.mutated(asked) for _ in range(200)] for mutator in (Mutator(1), Mutator(1), Mutator(2))
    )
    assert first == second
    assert first != other
    assert len(set(first)) > 150


def test_the_values_of_a_body_are_told_apart() -> None:
    body = b'{"a": [1, {"b": "x,}]"}], "c": null}\n{"d": -1e5}'
    found_values = [body[v.begin : v.end] for v in values(body)]
    assert found_values == [
        b'{"a": [1, {"b": "x,}]"}], "c": null}', b'[1, {"b": "x,}]"}]', b"1", b'{"b": "x,}]"}', b'"x,}]"', b"null",
        b'{"d": -1e5}', b"-1e5",
    ]  # fmt: skip
    assert [body[v.pair : v.end] for v in values(body)][5] == b'"c": null'
    assert values(b"") == []


@pytest.mark.parametrize(
    ("sent", "is_so"),
    [
        ({"model": "m", "ts_ms": 1, "equity": 2}, True),
        ({"model": "m", "ts_ms": 1.0, "equity": 2.0, "net_flow": None}, True),
        ({"model": "m", "ts_ms": 1, "equity": True}, False), ({"model": "m", "ts_ms": 1, "equity": "2"}, False),
        ({"model": "m", "ts_ms": 1, "equity": 2, "net_flow": 0}, False),
        ({"model": "n", "ts_ms": 1, "equity": 2}, False),
        ([], False),
    ],
)  # fmt: skip
def test_what_is_stored_is_held_against_what_was_sent(sent: Any, is_so: bool) -> None:
    assert same(Equity(model="m", ts_ms=1, equity=2.0), sent) is is_so


def test_a_peer_that_hangs_up_is_told_nothing(tmp_path: Path) -> None:
    target = Target(tmp_path, {"clock": "wall"})
    try:
        asked = Asked("POST", "/v1/equity", b"", (HOST, (b"content-type", JSON)), (b'{"mod', b""), hangs_up=True)
        assert mutation.run(target.ask(asked)).status == 0
        assert target.since(0) == []
    finally:
        target.stop()
