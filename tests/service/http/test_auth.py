"""Keys at the door: 401, 403, what needs which scope, and that no answer or log line ever repeats a key."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regime_service.http.auth import needed
from regime_service.keys import KeyRing, create, revoke


class Locked:
    """A service with a key of each scope, and a clock for its ring."""

    def __init__(self, make: Callable[..., Any], folder: Path, **ports: Any) -> None:
        self.path = folder / "store.keys.json"
        made = {scope: create(self.path, name=scope, scopes=[scope]) for scope in ("read", "ingest", "admin")}
        self.ids = {scope: key.id for scope, (key, _) in made.items()}
        self.tokens = {scope: token for scope, (_, token) in made.items()}
        self.now_s = 0.0
        self.ring = KeyRing(self.path, clock=lambda: self.now_s)
        self.service = make(ports={"keys": self.ring, **ports})

    def ask(self, method: str, path: str, scope: str | None, **kwargs: Any) -> Any:
        bearer = {} if scope is None else {"Authorization": f"Bearer {self.tokens.get(scope, scope)}"}
        return self.service.request(method, path, headers={**bearer, **kwargs.pop("headers", {})}, **kwargs)

    def thresholds(self, scope: str | None, **headers: str) -> Any:
        query = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
        return self.ask("GET", "/v1/thresholds", scope, params=query, headers=headers)

    def warm(self, scope: str = "ingest") -> Any:
        rows = [self.service.observation(i - 2) for i in range(3)]
        return self.ask("POST", "/v1/observations", scope, json=rows)


@pytest.fixture
def locked(make_service: Callable[..., Any], tmp_path: Path) -> Locked:
    return Locked(make_service, tmp_path)


OVERRIDE = {"model": "m", "state": "HALTED", "actor": "ana", "reason": "r"}
CALLS: list[tuple[str, str, dict[str, Any], str]] = [
    ("GET", "/v1/thresholds?model=m&symbol=BTC/USDT:USDT&timeframe=5m", {}, "read"),
    ("GET", "/v1/decisions?model=m&symbol=BTC/USDT:USDT&timeframe=5m", {}, "read"),
    ("GET", "/v1/explain?model=m&symbol=BTC/USDT:USDT&timeframe=5m", {}, "read"),
    ("GET", "/metrics", {}, "read"),
    ("GET", "/readyz", {}, "read"),
    ("POST", "/v1/observations", {"json": []}, "ingest"),
    ("POST", "/v1/trades", {"json": []}, "ingest"),
    ("POST", "/v1/equity", {"json": []}, "ingest"),
    ("POST", "/v1/candles", {"json": []}, "ingest"),
    ("POST", "/v1/overrides", {"json": OVERRIDE}, "admin"),
    ("POST", "/v1/peak-resets", {"json": {"model": "m", "actor": "ana", "reason": "r"}}, "admin"),
    ("PUT", "/v1/models/m/references/v1", {"content": b"f1\n1\n2\n", "headers": {"Content-Type": "text/csv"}}, "admin"),
]
STEPS = ["read", "ingest", "admin"]


@pytest.mark.parametrize(("method", "path", "kwargs", "least"), CALLS, ids=[f"{c[0]} {c[1][:22]}" for c in CALLS])
def test_a_call_opens_to_its_scope_and_to_those_above(
    locked: Locked, method: str, path: str, kwargs: dict[str, Any], least: str
) -> None:
    locked.warm()
    for scope in STEPS:
        status = locked.ask(method, path, scope, **dict(kwargs)).status_code
        assert status == (200 if STEPS.index(scope) >= STEPS.index(least) else 403), scope
    assert locked.ask(method, path, None, **dict(kwargs)).status_code == 401


def test_every_documented_call_needs_a_scope_but_for_four(locked: Locked) -> None:
    document = locked.service.document
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    free = set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            scope = needed(method.upper(), path)
            said = operation.get("security")
            assert said == (None if scope is None else [{}, {"key": [scope]}])
            assert ("401" in operation["responses"]) == (scope is not None)
            if scope is None:
                free.add(path)
    assert free == {"/", "/healthz"}


@pytest.mark.parametrize("path", ["/", "/healthz", "/docs", "/openapi.json"])
def test_what_tells_nothing_of_the_account_needs_no_key(locked: Locked, path: str) -> None:
    assert locked.ask("GET", path, None).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("POST", "/"), ("DELETE", "/v1/x"), ("PUT", "/v1")])
def test_what_nobody_thought_of_is_locked(locked: Locked, method: str, path: str) -> None:
    assert locked.ask(method, path, None).status_code == 401
    assert needed(method, path) in ("read", "admin")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic {t}", "Bearer {t}x", "Bearer x{t}", "{t}", "Token {t}", "Bearer {t} {t}",
     "Bearer {t}, Bearer {t}", "Bearer \x80", "Bearer " + "A" * 56],
)  # fmt: skip
def test_anything_but_one_right_bearer_key_is_401_and_says_how(locked: Locked, header: str) -> None:
    text = header.replace("{t}", locked.tokens["admin"])
    response = locked.thresholds(None, Authorization=text.encode("latin-1"))
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer ")
    problem = response.json()
    assert (problem["type"], problem["status"]) == ("urn:regimegate:problem:key", 401)
    assert "regime keys create" in problem["detail"]
    assert locked.tokens["admin"][13:] not in response.text


def test_two_authorization_headers_are_none(locked: Locked) -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/metrics",
        "raw_path": b"/metrics", "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }  # fmt: skip
    bearer = (b"authorization", b"bearer " + locked.tokens["read"].encode())
    host = (b"host", b"localhost")
    assert locked.service.raw({**scope, "headers": [host, bearer]}, [])[0] == 200
    assert locked.service.raw({**scope, "headers": [host, bearer, bearer]}, [])[0] == 401


def test_a_wrong_secret_behind_a_right_id_is_401(locked: Locked) -> None:
    wrong = f"rgk_{locked.ids['admin']}_{locked.tokens['read'][13:]}"
    assert locked.thresholds(wrong).status_code == 401


def test_a_revoked_key_is_401_within_a_second_and_others_stay(locked: Locked) -> None:
    locked.warm()
    assert locked.thresholds("read").status_code == 200
    revoke(locked.path, locked.ids["read"])
    locked.now_s += 1
    response = locked.thresholds("read")
    assert response.status_code == 401
    assert f"{locked.ids['read']} was revoked" in response.json()["detail"]
    assert locked.thresholds("ingest").status_code == 200


def test_revoking_all_keys_opens_nothing(locked: Locked) -> None:
    for key_id in locked.ids.values():
        revoke(locked.path, key_id)
    locked.now_s += 1
    assert {locked.thresholds(scope).status_code for scope in (None, *STEPS)} == {401}


def test_a_lost_keys_file_is_503_with_the_reason_and_health_still_answers(locked: Locked) -> None:
    locked.path.unlink()
    locked.now_s += 1
    response = locked.thresholds("read")
    assert response.status_code == 503
    assert "is gone" in response.json()["detail"]
    assert locked.ask("GET", "/healthz", None).status_code == 200


@pytest.mark.parametrize("parameter", ["key", "api_key", "access_token", "model"])
def test_a_key_in_the_address_is_refused_and_called_leaked(locked: Locked, parameter: str) -> None:
    for scope in (None, "read"):
        response = locked.ask("GET", f"/v1/thresholds?{parameter}={locked.tokens['read']}", scope)
        assert response.status_code == 401
        assert "leaked" in response.json()["detail"]
        assert locked.tokens["read"][13:] not in response.text


def test_the_wrong_scope_says_which_and_changes_nothing(locked: Locked) -> None:
    response = locked.ask("POST", "/v1/observations", "read", json=[locked.service.observation()])
    assert response.status_code == 403
    assert "'ingest'" in response.json()["detail"]
    assert not locked.service.log


def test_a_body_is_not_read_before_the_key(locked: Locked) -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/v1/equity",
        "raw_path": b"", "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080), "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }  # fmt: skip
    waiting = [{"type": "http.request", "body": b"x" * 100, "more_body": True}]
    assert locked.service.raw(scope, waiting)[0] == 401

    async def read_on() -> Any:
        raise AssertionError("the body was asked for")

    async def send(_: Any) -> None:
        pass

    locked.service._runner.run(locked.service.app(scope, read_on, send))


def test_metrics_can_be_opened(make_service: Callable[..., Any], tmp_path: Path) -> None:
    locked = Locked(make_service, tmp_path, metrics_open=True)
    assert locked.ask("GET", "/metrics", None).status_code == 200
    assert locked.thresholds(None).status_code == 401


def test_an_open_service_asks_for_nothing_until_there_is_a_key(
    make_service: Callable[..., Any], tmp_path: Path
) -> None:
    path, now = tmp_path / "k.json", [0.0]
    service = make_service(ports={"keys": KeyRing(path, clock=lambda: now[0])})
    assert service.warm().status_code == 200
    create(path, name="bot", scopes=["read"])
    now[0] += 1
    assert service.thresholds().status_code == 401


def test_what_an_operator_does_is_recorded_with_the_id_of_the_key(locked: Locked) -> None:
    locked.warm()
    halted = locked.ask("POST", "/v1/overrides", "admin", json={**OVERRIDE, "id": "night"})
    again = locked.ask("POST", "/v1/overrides", "admin", json={**OVERRIDE, "id": "night"})
    assert (halted.json(), again.json()) == ({"id": "night"}, {"id": "night"})
    locked.ask("POST", "/v1/peak-resets", "admin", json={"model": "m", "actor": "ana", "reason": "r"})
    assert locked.service.overrides()["night"].key_id == locked.ids["admin"]
    assert locked.ask("DELETE", "/v1/overrides/night", "admin").status_code == 200
    commands = [event for event in locked.service.log.values() if hasattr(event, "key_id")]
    assert [(c.action, c.key_id) for c in commands] == [
        ("set", locked.ids["admin"]), ("reset-peak", locked.ids["admin"]), ("clear", locked.ids["admin"]),
    ]  # fmt: skip


def test_the_same_word_from_another_key_is_the_same_word_and_stays_with_the_first(locked: Locked) -> None:
    second, token = create(locked.path, name="other", scopes=["admin"])
    locked.now_s += 1
    locked.warm()
    for key in ("admin", token):
        assert locked.ask("POST", "/v1/overrides", key, json={**OVERRIDE, "id": "x"}).status_code == 200
    assert locked.service.overrides()["x"].key_id == locked.ids["admin"] != second.id


def test_nobody_can_claim_a_key_id_in_the_body(locked: Locked) -> None:
    locked.warm()
    response = locked.ask("POST", "/v1/overrides", "admin", json={**OVERRIDE, "key_id": "aaaaaaaa"})
    assert response.status_code == 422
    assert not locked.service.overrides()


@pytest.fixture
def places(locked: Locked) -> Iterator[tuple[str, list[Any]]]:
    """The admin's key, said everywhere where it does not belong, and what came back."""
    token = locked.tokens["admin"]
    locked.warm()

    def post(path: str, body: Any) -> Any:
        return locked.ask("POST", path, "admin", json=body)

    yield (
        token,
        [
            locked.ask("GET", f"/v1/{token}", "admin"),
            locked.ask("DELETE", f"/v1/overrides/{token}", "admin"),
            locked.ask("GET", f"/v1/thresholds?{token}={token}", "admin"),
            locked.ask("POST", f"/v1/overrides?{token}", "admin", json=OVERRIDE),
            locked.ask("GET", f"/{token}", None),
            post("/v1/overrides", {**OVERRIDE, "state": token}),
            post("/v1/overrides", {**OVERRIDE, "model": token}),
            post("/v1/overrides", {**OVERRIDE, token: 1}),
            post("/v1/observations", [locked.service.observation(1, timeframe=token)]),
            locked.ask("POST", "/v1/equity", "admin", content=b"x", headers={"Content-Type": f"text/{token}"}),
            locked.ask("GET", "/healthz", "admin", headers={"Host": token.lower()}),
            locked.ask("GET", "/metrics", "admin"),
            locked.ask("GET", "/v1/explain?model=m&symbol=BTC/USDT:USDT&timeframe=5m", "admin"),
        ],
    )


def test_no_problem_and_no_metric_repeats_a_key(places: tuple[str, list[Any]]) -> None:
    token, answers = places
    assert {a.status_code for a in answers} >= {200, 401, 403, 404, 415, 422}
    for answer in answers:
        assert token[13:] not in answer.text, answer.request.url
        assert all(token[13:] not in value for value in answer.headers.values())


def test_no_log_line_repeats_a_key(
    make_service: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("x")

    locked = Locked(make_service, tmp_path, fault=fail)
    token = locked.tokens["admin"]
    with caplog.at_level(logging.DEBUG):
        response = locked.ask("DELETE", f"/v1/overrides/{token}", "admin")
    assert response.status_code == 503
    # What the client of this test logs is its own business.
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name.partition(".")[0] != "httpx")
    assert "incident" in ours
    assert f"rgk_{token[4:12]}_***" in ours
    assert token[13:] not in ours + json.dumps(response.json())
