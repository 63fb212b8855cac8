"""An override from the page: said in words first, done once, on record with the key; and a HALTED in two steps."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import pytest

NOW_MS = 1_762_146_310_000


def test_nothing_happens_before_the_words_were_confirmed(site: Any) -> None:
    page = site.form("/page/override/review", site.override())
    assert page.status_code == 200 and site.overrides() == []
    text = html.unescape(page.text)
    assert "This pauses both sides (long and short) of BTC/USDT:USDT 5m (m)." in text
    assert "no new entries and no adds" in text and "exits stay free" in text
    assert "ends by itself at 2025-11-03 09:05:10 UTC (in 4 h)" in text
    assert "“exchange is down”, Ana" in text

    answer = site.form("/page/override", site.hidden(page.text))
    assert answer.status_code == 303 and answer.headers["location"].endswith("&done=set#override")
    (word,) = site.overrides()
    assert (word.state, word.side, word.symbol, word.actor, word.reason, word.key_id) == (
        "REDUCING", None, "BTC/USDT:USDT", "Ana", "exchange is down", None,
    )  # fmt: skip
    assert word.until_ms == NOW_MS + 4 * 3_600_000
    shown = site.stream().text
    assert "paused" in shown and "exchange is down" in shown and word.id in shown


def test_it_is_recorded_with_the_id_of_the_key(make_site: Callable[..., Any]) -> None:
    site = make_site()
    site.warm()
    token = site.key("admin")
    site.log_in(token)
    page = site.form("/page/override/review", site.override())
    site.form("/page/override", site.hidden(page.text))
    (word,) = site.overrides()
    assert word.key_id == token[4:12]
    assert f"key <code>{token[4:12]}</code>" in site.stream().text


@pytest.mark.parametrize("path", ["/page/override/review", "/page/override", "/page/end/review", "/page/end"])
@pytest.mark.parametrize("csrf", [None, "", "wrong", "a" * 43])
def test_a_form_without_the_right_token_is_refused(site: Any, path: str, csrf: str | None) -> None:
    fields = site.override(id="01", word="HALT")
    del fields["csrf"]
    answer = site.form(path, fields if csrf is None else {**fields, "csrf": csrf})
    assert answer.status_code == 403 and "Nothing was changed" in answer.text
    assert site.overrides() == []


def test_a_form_sent_twice_is_one_override(site: Any) -> None:
    fields = site.hidden(site.form("/page/override/review", site.override()).text)
    assert [site.form("/page/override", fields).status_code for _ in range(2)] == [303, 303]
    (word,) = site.overrides()
    site.form("/page/end", {"csrf": site.token(), "id": word.id})
    late = site.form("/page/override", fields)
    assert late.status_code == 409 and "given already" in late.text
    assert site.overrides() == []


def test_a_halt_must_be_typed(site: Any) -> None:
    page = site.form("/page/override/review", site.override(state="HALTED", hours=""))
    text = html.unescape(page.text)
    assert "the bot places no order of its own any more" in text and "type <b>HALT</b>" in text
    assert "ends when somebody ends it" in text
    fields = site.hidden(page.text)
    for word in ("", "halted", "yes"):
        answer = site.form("/page/override", {**fields, "word": word})
        assert answer.status_code == 422 and site.overrides() == []
    # The state in the form cannot be slipped past the second step either.
    assert site.form("/page/override", {**site.override(state="HALTED"), "id": "x1"}).status_code == 422
    assert site.form("/page/override", {**fields, "word": " halt "}).status_code == 303
    (word,) = site.overrides()
    assert word.state == "HALTED" and word.until_ms is None
    assert "halted by an operator" in site.get("/").text


def test_trading_against_the_rules_has_an_end_and_names_what_it_overrules(make_site: Callable[..., Any]) -> None:
    site = make_site(rules=[{"kind": "drawdown", "options": {"limit": 0.1}}])
    site.warm()
    site.send(
        "equity", [{"model": "m", "ts_ms": NOW_MS - 60_000 + i, "equity": e} for i, e in enumerate((100.0, 85.0))]
    )
    assert "drawdown" in site.get("/").text
    endless = site.form("/page/override/review", site.override(state="ACTIVE", hours=""))
    assert endless.status_code == 422 and "must have an end" in endless.text
    # What was filled in is still there.
    assert 'value="Ana"' in endless.text and "exchange is down" in endless.text
    page = html.unescape(site.form("/page/override/review", site.override(state="ACTIVE")).text)
    assert "You overrule: drawdown" in page and "Faults of the data" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reason": "  "}, "Give a reason"), ({"actor": ""}, "Give your name"), ({"state": ""}, "Choose what the bot"),
        ({"state": "<b>"}, "Choose what the bot"), ({"side": "up"}, "from what is offered"),
        ({"hours": "999999"}, "from what is offered"), ({"scope": "world"}, "from what is offered"),
        ({"actor": "a" * 129}, "length &lt;= 128"), ({"reason": "r" * 1001}, "length &lt;= 1000"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named_and_nothing_changes(site: Any, changes: dict[str, str], said: str) -> None:
    answer = site.form("/page/override/review", site.override(**changes))
    assert answer.status_code == 422 and said in answer.text and "Nothing was changed" in answer.text
    assert site.overrides() == []


def test_an_override_that_ended_while_somebody_read_the_words_is_not_given(site: Any) -> None:
    fields = site.hidden(site.form("/page/override/review", site.override(hours="1")).text)
    site.clock.ms += 2 * 3_600_000
    answer = site.form("/page/override", fields)
    assert answer.status_code == 422 and "over already" in answer.text and site.overrides() == []


def test_every_stream_of_a_model_can_be_paused_at_once(site: Any) -> None:
    site.warm(symbol="ETH/USDT:USDT")
    page = site.form("/page/override/review", site.override(scope="model", side="short"))
    assert "This pauses short of every stream of m (2 streams now, and those to come)." in html.unescape(page.text)
    site.form("/page/override", site.hidden(page.text))
    (word,) = site.overrides()
    assert (word.symbol, word.timeframe, word.side) == (None, None, "short")


def test_ending_an_override_is_confirmed_too(site: Any) -> None:
    site.form("/page/override", site.hidden(site.form("/page/override/review", site.override()).text))
    (word,) = site.overrides()
    back = "/stream?model=m&symbol=BTC%2FUSDT%3AUSDT&timeframe=5m"
    page = site.form("/page/end/review", {"csrf": site.token(), "id": word.id, "back": back})
    assert "This ends the REDUCING that Ana gave" in page.text and len(site.overrides()) == 1
    answer = site.form("/page/end", site.hidden(page.text))
    assert answer.headers["location"] == back + "&done=ended#override" and site.overrides() == []
    assert site.form("/page/end", {"csrf": site.token(), "id": word.id}).status_code == 404
    # The trail keeps both, newest first.
    trail = site.stream().text.partition('id="trail"')[2]
    assert trail.index("No longer: operator") < trail.index("exchange is down")


def test_an_id_that_could_not_stand_in_an_address_is_refused(site: Any) -> None:
    for wrong in ("", "a/b", "x" * 129, "ü"):
        assert site.form("/page/override", {**site.override(), "id": wrong}).status_code == 422
    assert site.overrides() == []


def test_forms_are_forms(site: Any) -> None:
    fields = site.override()
    assert site.request("POST", "/page/override/review", json=fields).status_code == 415
    assert site.form("/page/override/review", {**fields, "reason": "r" * 20_000}).status_code == 413
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for raw in (b"\xff\xfe", b"a=%ff", b"&".join(b"a%d=1" % i for i in range(100))):
        assert site.request("POST", "/page/override", content=raw, headers=headers).status_code == 400
    assert site.get("/page/override").status_code == 405 and site.get("/page/none").status_code == 404
    assert site.form("/page/override", {**fields, "model": "nobody"}).status_code == 404


def test_on_event_time_an_override_counts_by_the_clock_of_the_stream(make_site: Callable[..., Any]) -> None:
    site = make_site(clock="event")
    site.warm()
    newest = NOW_MS // 300_000 * 300_000
    site.form("/page/override", site.hidden(site.form("/page/override/review", site.override(hours="1")).text))
    (word,) = site.overrides()
    assert (word.ts_ms, word.until_ms) == (newest, newest + 3_600_000)
    assert "by the market's own clock" in site.get("/").text
