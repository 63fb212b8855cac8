"""Rate limits: who is told to wait, for how long, and that nobody is who behaves like a bot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regime_service.http.limits import KNOWN_MAX, WRONG_BURST, Limiter
from regime_service.keys import KeyRing, create
from regime_service.settings import ServerSection


class Clock:
    s = 100.0

    def __call__(self) -> float:
        return self.s


def test_a_burst_passes_then_one_at_a_time_and_waiting_as_told_is_enough() -> None:
    clock = Clock()
    limiter = Limiter(per_s=2, burst=3, clock=clock)
    assert [limiter.wait_s("a") for _ in range(3)] == [0, 0, 0]
    wait_s = limiter.wait_s("a")
    assert wait_s == pytest.approx(0.5, abs=1e-5)
    assert limiter.wait_s("a") == wait_s, "what is refused costs nothing"
    assert limiter.wait_s("b") == 0, "another one has a bucket of its own"
    clock.s += wait_s * 0.9
    assert limiter.wait_s("a") > 0
    clock.s += wait_s * 0.1
    assert limiter.wait_s("a") == 0
    assert limiter.wait_s("a") > 0
    clock.s += 1000
    assert [limiter.wait_s("a") for _ in range(4)] == [0, 0, 0, pytest.approx(0.5, abs=1e-5)]


def test_a_bot_with_200_streams_at_one_candle_a_minute_is_never_told_to_wait() -> None:
    """It sends each stream by itself, asks for each, and sends all of it again as if each answer had been lost."""
    clock, server = Clock(), ServerSection()
    limiter = Limiter(per_s=server.requests_per_s, burst=server.requests_burst, clock=clock)
    for _ in range(120):
        assert all(limiter.wait_s("bot") == 0 for _ in range(200 * 2 * 2))
        clock.s += 60


def test_the_memory_of_the_buckets_is_bounded_and_the_one_in_use_stays() -> None:
    clock = Clock()
    limiter = Limiter(per_s=1, burst=1, known_max=10, clock=clock)
    limiter.wait_s("busy")
    for i in range(1000):
        limiter.wait_s(str(i))
        assert limiter.wait_s("busy") > 0
    assert len(limiter) == 10
    assert KNOWN_MAX <= 10_000


def locked(make_service: Callable[..., Any], folder: Path, **ports: Any) -> tuple[Any, list[dict[str, str]]]:
    path = folder / "k.json"
    bearers = [{"Authorization": f"Bearer {create(path, name=n, scopes=['ingest'])[1]}"} for n in "ab"]
    return make_service(ports={"keys": KeyRing(path), **ports}), bearers


def test_a_key_that_asks_too_often_gets_429_and_others_do_not(make_service: Callable[..., Any], tmp_path: Path) -> None:
    service, (a, b) = locked(make_service, tmp_path, requests_per_s=0.1, requests_burst=3)
    body = [service.observation()]
    statuses = [service.request("POST", "/v1/observations", json=body, headers=a).status_code for _ in range(3)]
    refused = service.request("POST", "/v1/observations", json=[service.observation(-5)], headers=a)
    assert (statuses, refused.status_code) == ([200] * 3, 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert refused.json()["type"] == "urn:regimegate:problem:rate"
    assert len(service.log) == 1, "something of a refused request was stored"
    assert service.thresholds(headers=b).status_code == 200
    assert service.get("/healthz").status_code == 200


def test_knocking_with_wrong_keys_is_429_in_the_end_and_the_right_key_from_there_still_opens(
    make_service: Callable[..., Any], tmp_path: Path
) -> None:
    service, (a, _) = locked(make_service, tmp_path)
    wrong = {"Authorization": "Bearer nonsense"}
    statuses = [service.thresholds(headers=wrong).status_code for _ in range(WRONG_BURST + 20)]
    assert statuses[:WRONG_BURST] == [401] * WRONG_BURST
    assert statuses[-1] == 429
    service.request("POST", "/v1/observations", json=[service.observation()], headers=a)
    assert service.thresholds(headers=a).status_code == 200


def test_an_open_loopback_is_never_told_to_wait(make_service: Callable[..., Any], tmp_path: Path) -> None:
    service = make_service(
        ports={"keys": KeyRing(tmp_path / "none.json"), "requests_per_s": 0.001, "requests_burst": 1}
    )
    service.warm()
    assert {service.thresholds().status_code for _ in range(50)} == {200}


# --- caps on what events bring into being ---


def test_a_stream_over_the_cap_is_refused_by_name_and_those_that_exist_go_on(make_service: Callable[..., Any]) -> None:
    service = make_service(ports={"streams_max": 2})
    service.warm(symbol="A")
    batch = [service.observation(symbol=s) for s in ("A", "B", "C", "D", "C")]
    refused = service.post("/v1/observations", batch)
    assert refused.status_code == 422
    assert [e["path"] for e in refused.json()["errors"]] == ["[2]", "[3]"]
    assert "streams_max" in refused.json()["detail"]
    assert service.thresholds("B").status_code == 404, "something of a refused batch was stored"
    assert service.post("/v1/observations", service.observation(symbol="B")).status_code == 200
    assert service.post("/v1/trades", service.trade(symbol="C")).status_code == 422
    csv = {"Content-Type": "text/csv"}
    one = "/v1/models/m/references/v1?symbol=C&timeframe=5m"
    assert service.request("PUT", one, content=b"f1\n1\n2\n", headers=csv).status_code == 422
    assert service.post("/v1/observations", service.observation(1, symbol="A")).status_code == 200


def test_a_request_that_is_refused_after_all_uses_up_no_place(make_service: Callable[..., Any]) -> None:
    service = make_service(ports={"streams_max": 1})
    service.full = True
    assert service.post("/v1/observations", service.observation(symbol="A")).status_code == 503
    service.full = False
    assert service.post("/v1/observations", service.observation(symbol="B")).status_code == 200


def test_a_key_has_a_cap_of_its_own(make_service: Callable[..., Any], tmp_path: Path) -> None:
    service, (a, b) = locked(make_service, tmp_path, key_streams_max=2)

    def send(symbol: str, key: dict[str, str]) -> int:
        body = service.observation(symbol=symbol)
        return int(service.request("POST", "/v1/observations", json=body, headers=key).status_code)

    service.full = True
    assert send("X", a) == 503
    service.full = False
    assert [send(s, a) for s in ("A", "B", "A", "C")] == [200, 200, 200, 422]
    assert [send(s, b) for s in ("A", "C")] == [200, 200], "one key used up what another has"


def test_models_that_only_equity_names_are_capped_too(make_service: Callable[..., Any]) -> None:
    service = make_service(ports={"streams_max": 2})

    def equity(model: str) -> int:
        body = {"model": model, "ts_ms": service.now_ms, "equity": 1.0}
        return int(service.post("/v1/equity", body).status_code)

    assert [equity(m) for m in ("a", "b", "a", "c")] == [200, 200, 200, 422]


def test_features_and_overrides_are_capped(make_service: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service(ports={"features_max": 2})
    refused = service.post("/v1/observations", service.observation())
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "features")
    service.post("/v1/observations", service.observation(features={"a": 1.0}))
    monkeypatch.setattr("regime_service.http.api.OVERRIDES_MAX", 1)
    word = {"model": "m", "state": "REDUCING", "actor": "ana", "reason": "r"}
    assert service.post("/v1/overrides", {**word, "id": "1"}).status_code == 200
    assert service.post("/v1/overrides", {**word, "id": "2"}).status_code == 422
    assert service.post("/v1/overrides", {**word, "id": "1"}).status_code == 200, "the same word again"
