"""Logging in, staying in, being thrown out; and that nothing is shown or changed by anybody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regime_service.keys import KeyRing, create, revoke
from regime_service.page.sessions import IDLE_S, LIFE_S, SESSIONS_MAX, Session, Sessions

COOKIE = "regime_session"


@pytest.fixture
def locked(make_site: Callable[..., Any]) -> Any:
    """A site with an admin key (`admin`), and nobody logged in."""
    site = make_site()
    site.warm()
    site.admin = site.key("admin")
    return site


def test_where_there_are_no_keys_everything_is_shown_without_logging_in(site: Any) -> None:
    assert "BTC/USDT:USDT" in site.get("/").text
    assert site.stream().status_code == 200


def test_where_there_are_keys_nothing_about_the_account_is_shown_without_a_session(locked: Any) -> None:
    for path in (
        "/",
        "/stream?model=m&symbol=BTC%2FUSDT%3AUSDT&timeframe=5m",
        "/stream?model=nobody&symbol=s&timeframe=5m",
    ):
        page = locked.get(path)
        assert "Log in" in page.text
        # The address that was asked for goes into the form; what the service knows does not.
        assert "trades" not in page.text and "overrid" not in page.text
    assert locked.get("/").status_code == 200
    assert locked.stream().status_code == 401


def test_a_key_is_given_for_a_cookie_that_scripts_cannot_read_and_other_sites_cannot_use(locked: Any) -> None:
    answer = locked.log_in(locked.admin)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    name, _, rest = answer.headers["set-cookie"].partition("=")
    value, *flags = rest.split("; ")
    assert name == COOKIE and len(value) == 43
    assert set(flags) == {"Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=43200"}
    assert locked.admin not in answer.headers["set-cookie"]
    assert "BTC/USDT:USDT" in locked.get("/").text


@pytest.mark.parametrize("headers", [{"X-Forwarded-Proto": "https"}, {"Origin": "https://localhost:8080"}])
def test_behind_tls_the_cookie_is_secure_and_bound_to_the_host(locked: Any, headers: dict[str, str]) -> None:
    answer = locked.log_in(locked.admin, headers={"Host": "localhost:8080", **headers})
    assert answer.headers["set-cookie"].startswith(f"__Host-{COOKIE}=")
    assert answer.headers["set-cookie"].endswith("; Secure")
    assert "BTC/USDT:USDT" in locked.get("/").text


def test_a_cookie_that_was_planted_before_the_login_is_worth_nothing_after_it(locked: Any) -> None:
    locked.cookies[COOKIE] = "planted" * 6
    locked.log_in(locked.admin)
    assert locked.cookies[COOKIE] != "planted" * 6
    mine = dict(locked.cookies)
    locked.cookies[COOKIE] = "planted" * 6
    assert "Log in" in locked.get("/").text
    locked.cookies = dict(mine)
    # Logging in again ends the session that came along.
    locked.log_in(locked.admin)
    assert "Log in" in locked.get("/", headers={"Cookie": f"{COOKIE}={mine[COOKIE]}"}).text
    assert "BTC/USDT:USDT" in locked.get("/").text


def test_after_logging_out_the_cookie_opens_nothing(locked: Any) -> None:
    locked.log_in(locked.admin)
    kept = dict(locked.cookies)
    token = locked.token()
    assert locked.form("/page/logout", {"csrf": "wrong"}).status_code == 403
    assert "BTC/USDT:USDT" in locked.get("/").text
    answer = locked.form("/page/logout", {"csrf": token})
    assert "Max-Age=0" in answer.headers["set-cookie"] and locked.cookies == {}
    locked.cookies = kept
    assert "Log in" in locked.get("/").text


def test_a_session_dies_with_its_key(locked: Any) -> None:
    locked.log_in(locked.admin)
    token = locked.token()
    revoke(locked.keys_path, locked.admin)
    locked.look_at_keys()
    assert "Log in" in locked.get("/").text
    answer = locked.form("/page/override", {"csrf": token})
    assert answer.status_code == 401 and locked.overrides() == []


def test_when_the_keys_file_is_gone_nobody_is_let_in_logged_in_or_not(locked: Any) -> None:
    locked.log_in(locked.admin)
    locked.keys_path.unlink()
    locked.look_at_keys()
    assert locked.get("/").status_code == 503
    assert locked.log_in(locked.admin).status_code == 503


def test_wrong_keys_are_counted_and_a_right_one_is_let_in_all_the_same(locked: Any) -> None:
    answers = [locked.log_in("rgk_aaaaaaaa_" + "x" * 43) for _ in range(14)]
    assert [a.status_code for a in answers] == [401] * 10 + [429] * 4
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 6
    assert all("set-cookie" not in a.headers for a in answers)
    assert locked.log_in(locked.admin).status_code == 303


def test_one_key_cannot_ask_for_pages_without_end(locked: Any) -> None:
    locked.log_in(locked.admin)
    answers = [locked.get("/").status_code for _ in range(150)]
    assert answers[:100] == [200] * 100 and 429 in answers
    # Who has another key is not slowed down by it.
    locked.cookies.clear()
    locked.log_in(locked.key("read"))
    assert locked.get("/").status_code == 200


def test_neither_a_wrong_key_nor_a_right_one_is_repeated_in_an_answer(locked: Any) -> None:
    wrong = "rgk_aaaaaaaa_" + "x" * 43
    assert wrong not in locked.log_in(wrong).text
    locked.log_in(locked.admin)
    assert locked.admin not in locked.get("/").text + locked.stream().text


def test_after_the_login_nobody_is_sent_to_another_site(locked: Any) -> None:
    for where in (
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/stream@evil.example",
    ):
        answer = locked.form("/session", {"key": locked.admin, "next": where})
        assert answer.headers["location"] == "/"
    to = "/stream?model=m&symbol=BTC%2FUSDT%3AUSDT&timeframe=5m"
    assert locked.form("/session", {"key": locked.admin, "next": to}).headers["location"] == to


def test_a_link_from_another_site_is_followed_by_our_own_page_so_that_the_cookie_comes_along(locked: Any) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    page = locked.get("/", headers=followed)
    assert 'http-equiv="refresh" content="0"' in page.text and "BTC" not in page.text


def test_the_cookie_opens_what_may_be_looked_at_below_v1_and_nothing_that_changes_something(locked: Any) -> None:
    path = "/v1/thresholds?model=m&symbol=BTC/USDT:USDT&timeframe=5m"
    assert locked.get(path).status_code == 401
    locked.log_in(locked.admin)
    assert locked.get(path).status_code == 200
    override = {"model": "m", "state": "ACTIVE", "actor": "a", "reason": "r"}
    token = locked.token()
    for headers in ({}, {"X-CSRF-Token": token}, {"Origin": "http://localhost:8080"}):
        assert locked.request("POST", "/v1/overrides", json=override, headers=headers).status_code == 401
    assert locked.request("DELETE", "/v1/overrides/x").status_code == 401
    assert locked.request("PUT", "/v1/models/m/references/1", content=b"a").status_code == 401
    assert locked.overrides() == []


def test_a_key_beside_the_cookie_counts_alone(locked: Any) -> None:
    locked.log_in(locked.admin)
    path = "/v1/thresholds?model=m&symbol=BTC/USDT:USDT&timeframe=5m"
    assert locked.get(path, headers={"Authorization": "Bearer rgk_wrong"}).status_code == 401


def test_a_key_that_may_only_look_sees_no_form_and_cannot_send_one(locked: Any) -> None:
    locked.log_in(locked.key("read"))
    page = locked.stream().text
    assert "may look, not command" in page and "/page/override/review" not in page
    for path in ("/page/override/review", "/page/override", "/page/end"):
        assert locked.form(path, locked.override()).status_code == 403
    assert locked.overrides() == []


def test_pages_may_not_be_framed_and_run_nothing_but_what_comes_from_here(locked: Any) -> None:
    locked.log_in(locked.admin)
    for page in (locked.get("/"), locked.stream(), locked.form("/page/override/review", locked.override())):
        policy = page.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["cache-control"] == "no-store"
        assert " style=" not in page.text and " onclick" not in page.text


def test_other_sites_cannot_log_anybody_in_or_send_forms(locked: Any) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert locked.log_in(locked.admin, headers=headers).status_code == 403
    assert locked.cookies == {}


# --- by the clock ---


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(tmp_path: Path, clock: Clock) -> tuple[Sessions, str]:
    _, token = create(tmp_path / "keys.json", name="ana", scopes=["admin"])
    return Sessions(KeyRing(tmp_path / "keys.json"), clock=clock), token


def cookie_of(sessions: Sessions, token: str) -> str:
    value = sessions.log_in(token, "127.0.0.1")
    assert isinstance(value, str)
    return f"{COOKIE}={value}"


def test_a_session_ends_when_nobody_looks_any_more(known: tuple[Sessions, str], clock: Clock) -> None:
    sessions, token = known
    cookie = cookie_of(sessions, token)
    for _ in range(3):
        clock.s += IDLE_S - 1
        assert isinstance(sessions.of(cookie), Session)
    clock.s += IDLE_S + 1
    assert sessions.of(cookie) is None


def test_a_session_ends_after_half_a_day_however_often_it_is_used(known: tuple[Sessions, str], clock: Clock) -> None:
    sessions, token = known
    cookie, begun = cookie_of(sessions, token), clock.s
    while clock.s + 3600 < begun + LIFE_S:
        clock.s += 3600
        assert sessions.of(cookie) is not None
    clock.s = begun + LIFE_S + 1
    assert sessions.of(cookie) is None


def test_sessions_are_bounded_and_the_one_used_longest_ago_makes_room(known: tuple[Sessions, str]) -> None:
    sessions, token = known
    first, second = cookie_of(sessions, token), cookie_of(sessions, token)
    for _ in range(SESSIONS_MAX - 2):
        sessions.of(first)
        cookie_of(sessions, token)
    assert sessions.of(first) is not None and sessions.of(second) is not None
    sessions.of(first)
    for _ in range(SESSIONS_MAX - 2):
        cookie_of(sessions, token)
    cookie_of(sessions, token)
    assert sessions.of(second) is None


def test_tokens_differ_between_sessions_and_one_does_not_pass_for_another(known: tuple[Sessions, str]) -> None:
    sessions, token = known
    one, other = sessions.of(cookie_of(sessions, token)), sessions.of(cookie_of(sessions, token))
    assert sessions.bears(one, sessions.token(one))
    assert not sessions.bears(one, sessions.token(other))
    assert not sessions.bears(one, sessions.token(None)) and not sessions.bears(one, "")
    assert not sessions.bears(one, "\udcff")
